"""Cleaning rules against plain Python, and the reasons in dropped.parquet, which account for every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data.clean import clean
from llmrec.data.raw import BadRow, RawData, Scan
from llmrec.errors import DataError
from llmrec.recipe import Data

ROWS = [(f"u{n % 7}", f"i{n % 11}", 1_000_000_000 + 86_400 * n, float(n % 5 + 1)) for n in range(120)]
TITLES = {f"i{n}": "x" * n for n in range(12)}  # i11 is in the catalogue alone


def raw(rows: list[tuple[str, str, int, float]] = ROWS) -> RawData:
    users, items, times, ratings = zip(*rows, strict=True)
    log = {"user_id": users, "item_id": items, "timestamp": times, "rating": pa.array(ratings, pa.float32())}
    return RawData(pa.table(log), pa.table({"item_id": list(TITLES), "title": list(TITLES.values())}), "seconds")


def left(**options: object) -> list[tuple[str, str, int, float]]:
    table = clean(raw(), Data.model_validate(options), 1).interactions
    return sorted(
        zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp", "rating")), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"since": "2001-10-01"}, lambda row: row[2] >= 1_001_894_400),
        ({"until": "2001-10-01T12:30"}, lambda row: row[2] < 1_001_939_400),
        ({"min_rating": 3}, lambda row: row[3] >= 3),
        ({"min_text": 4}, lambda row: len(TITLES[row[1]]) >= 4),
    ],
    ids=["since", "until", "rating", "text"],
)
def test_a_rule_keeps_the_rows_that_it_says(options: dict[str, object], kept: Callable[..., bool]) -> None:
    assert left(**options) == sorted(filter(kept, ROWS))


def test_every_row_is_kept_or_told_why_not(tmp_path: Path) -> None:
    copied = raw([*ROWS, *ROWS[:3], *ROWS[:3]])
    copied.dropped = [BadRow("missing", "log.csv, line 9", "item_id is missing")]
    options = Data(since="2001-09-20", min_rating=2, min_text=3, k_core=4, max_users=5)
    cleaned = clean(copied, options, 1)
    cleaned.save(tmp_path)
    dropped = pq.read_table(tmp_path / "dropped.parquet").to_pylist()
    assert pq.read_table(tmp_path / "interactions.parquet").num_rows + len(dropped) == len(ROWS) + 6 + 1
    assert {reason: count for reason, count in cleaned.dropped.items() if count} == Counter(
        row["reason"].split(":")[0].replace("malformed", "malformed rows") for row in dropped
    )
    told = {(row["user_id"], row["item_id"], row["timestamp"]): row["reason"] for row in dropped}
    assert told[(None, None, None)] == "malformed: log.csv, line 9: item_id is missing"
    for user, item, time, rating in ROWS:
        reason = told.get((user, item, time), "")
        if time < 1_000_944_000:
            assert reason == "events before 2001-09-20"
        elif rating < 2:
            assert reason == "events rated below 2"


def test_an_empty_result_names_every_filter_and_what_it_took() -> None:
    with pytest.raises(
        DataError, match=r"'events rated below 4' dropped 72, 'users or items with .* 90 events' dropped 48"
    ):
        left(min_rating=4, k_core=90)


def test_a_rating_threshold_without_ratings_is_refused() -> None:
    one = raw()
    assert isinstance(one.interactions, pa.Table)
    one.interactions = one.interactions.drop_columns(["rating"])
    with pytest.raises(DataError, match=r"data\.columns\.rating=NAME"):
        clean(one, Data(min_rating=3), 1)


@pytest.mark.parametrize(("catalogue", "items"), [("all", 12), ("seen", 8)])
def test_the_catalogue_is_all_items_or_those_with_events(catalogue: str, items: int) -> None:
    one = raw([row for row in ROWS if row[1] not in ("i3", "i4", "i5")])
    cleaned = clean(one, Data.model_validate({"catalogue": catalogue}), 1)
    assert cleaned.items.num_rows == items
    assert clean(raw(), Data(min_text=4), 1).items["item_id"].to_pylist() == [f"i{n}" for n in range(4, 12)]


def test_rows_that_stay_in_their_files_are_cleaned_as_rows_in_memory(tmp_path: Path) -> None:
    one = raw()
    assert isinstance(one.interactions, pa.Table)
    pq.write_table(one.interactions, tmp_path / "log.parquet")
    streamed = RawData(
        Scan(f"SELECT * FROM read_parquet('{tmp_path}/log.parquet')", one.interactions.column_names),
        one.items,
        "seconds",
    )
    for number, source in enumerate((one, streamed)):
        (tmp_path / str(number)).mkdir()
        clean(source, Data(k_core=3), 5).save(tmp_path / str(number))
    for name in ("interactions", "items", "dropped"):
        files = [(tmp_path / str(number) / f"{name}.parquet").read_bytes() for number in range(2)]
        assert files[0] == files[1]


def test_reviews_go_with_the_copy_that_is_kept() -> None:
    one = raw([("u", "i1", 1, 2.0), ("u", "i1", 1, 5.0), ("u", "i2", 2, 1.0)])
    assert isinstance(one.interactions, pa.Table)
    one.interactions = one.interactions.append_column("review", pa.array(["dull", "great", None]))
    found = clean(one, Data(), 1).interactions.to_pylist()
    assert [(row["rating"], row["review"]) for row in found] == [(5.0, "great"), (1.0, None)]
