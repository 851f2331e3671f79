"""Logs in several files, and logs too large for memory: the same rows as from one file read at once."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data import user_files
from llmrec.data.clean import clean
from llmrec.data.raw import BadRow, Scan
from llmrec.data.sources import read
from llmrec.data.validate import check
from llmrec.errors import DataError
from llmrec.recipe import Data

ITEMS = "item_id,title\n" + "".join(f"{n},t{n}\n" for n in range(5))


def recipe(folder: Path, log: str, **more: object) -> Data:
    (folder / "items.csv").write_text(ITEMS)
    named = {"interactions": str(folder / log), "items": str(folder / "items.csv")}
    return Data.model_validate({"source": "files", **named, **more})


def test_files_of_a_pattern_are_one_log_in_order_of_their_names(tmp_path: Path) -> None:
    for month in ("02", "01"):
        (tmp_path / f"log-{month}.csv").write_text(f"user_id,item_id\nu{month},1\nu{month},2\n")
    raw = read(recipe(tmp_path, "log-*.csv", columns={"timestamp": None}))
    assert isinstance(raw.interactions, pa.Table)
    assert raw.interactions["user_id"].to_pylist() == ["u01", "u01", "u02", "u02"]
    assert raw.interactions["timestamp"].to_pylist() == [0, 1, 2, 3]
    assert raw.origin["files"] == "log-01.csv, log-02.csv; items.csv"


def test_bad_rows_of_several_files_are_told_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "log-a.csv").write_text("user_id,item_id,timestamp\nu,1,1\nu,,2\n")
    (tmp_path / "log-b.csv").write_text("user_id,item_id,timestamp\nu,1,soon\nu,2,3\n")
    raw = read(recipe(tmp_path, "log-?.csv", max_bad_rows=2))
    assert raw.dropped == [
        BadRow("missing", "log-a.csv, line 3", "item_id is missing"),
        BadRow("unparsed", "log-b.csv, line 2", "timestamp 'soon' does not parse"),
    ]


def test_a_pattern_that_matches_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file matches"):
        read(recipe(tmp_path, "nowhere-*.csv"))


@pytest.mark.parametrize("scale", [1, 1_000, 1_000_000], ids=["seconds", "milliseconds", "microseconds"])
@pytest.mark.parametrize("ids", ["numbers", "text"])
def test_a_streamed_log_is_cleaned_as_one_in_memory(
    ids: str, scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    for part in range(2):
        user, item = draw.integers(0, 9, 60), draw.integers(0, 5, 60)
        columns = {
            "who": pa.array(user if ids == "numbers" else [f" u{n}" for n in user]),
            "item_id": pa.array(item if ids == "numbers" else [str(n) for n in item]),
            "timestamp": pa.array((1_500_000_000 + draw.integers(0, 99, 60)) * scale),
            "stars": pa.array(draw.integers(1, 6, 60)),
        }
        holes = draw.random(60) < 0.05
        columns["item_id"] = pa.array(
            [None if hole else v for hole, v in zip(holes, columns["item_id"].to_pylist(), strict=True)]
        )
        pq.write_table(pa.table(columns), tmp_path / f"log-{part}.parquet")
    given = recipe(
        tmp_path, "log-*.parquet", columns={"user_id": "who", "rating": "stars"}, max_bad_rows=99, min_rating=2
    )
    whole = read(given)
    monkeypatch.setattr(user_files, "STREAMED", 1)
    streamed = read(given)
    assert isinstance(whole.interactions, pa.Table) and isinstance(streamed.interactions, Scan)
    assert [row.place for row in whole.dropped] == [row.place for row in streamed.dropped]
    assert duckdb.sql(streamed.interactions.query).to_arrow_table().num_rows == whole.interactions.num_rows
    assert clean(whole, given, 1).interactions == clean(streamed, given, 1).interactions


def test_a_streamed_log_without_a_column_is_refused_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_files, "STREAMED", 1)
    pq.write_table(pa.table({"a": [1], "item_id": [1], "timestamp": [1]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet has no column 'user_id'"):
        read(recipe(tmp_path, "log.parquet"))


def test_a_check_takes_one_file_of_each_kind(tmp_path: Path) -> None:
    for month in ("02", "01"):
        rows = "".join(f"u,{n},150000000{n}\n" for n in range(3))
        (tmp_path / f"log-{month}.csv").write_text("user_id,item_id,timestamp\n" + rows)
    with pytest.raises(DataError, match=r"matches 2 files\. Check them one by one"):
        check(recipe(tmp_path, "log-*.csv"), ["title"])
    assert not check(recipe(tmp_path, "log-01*.csv"), ["title"]).problems
