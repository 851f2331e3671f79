"""Splits: each against a few lines of plain Python over the rows, and what no split may do."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data import dataset as data
from llmrec.data.clean import clean
from llmrec.data.dataset import Dataset
from llmrec.data.raw import RawData
from llmrec.data.validate import statistics
from llmrec.errors import DataError
from llmrec.recipe import Data


def raw(unit: str = "seconds", users: int = 60, items: int = 50, events: int = 900, seed: int = 0) -> RawData:
    draw = np.random.default_rng(seed)
    rows = {
        "user_id": [f"u{user}" for user in draw.integers(0, users, events)],
        "item_id": [f"i{item}" for item in draw.integers(0, items, events)],
        "timestamp": draw.integers(0, 5000, events),
    }
    return RawData(pa.table(rows), pa.table({"item_id": [f"i{item}" for item in range(items)]}), unit)


def split(how: str, **options: object) -> Dataset:
    cleaned = clean(raw(), Data.model_validate({"split": how, **options}), 3)
    return Dataset(cleaned.interactions, cleaned.items)


@pytest.mark.parametrize("how", ["leave-one-out", "temporal", "cold-items", "cold-users"])
def test_a_case_knows_all_that_its_user_did_before_and_nothing_after(how: str) -> None:
    dataset = split(how)
    for name in ("valid", "test"):
        cases = dataset.cases(name)  # type: ignore[arg-type]
        found = [
            (dataset.user_ids[user], dataset.item_ids[target], [dataset.item_ids[item] for item in history])
            for user, target, history in zip(cases.users, cases.targets, cases.histories, strict=True)
        ]
        truth, before = [], defaultdict(list)
        for row in dataset.interactions.to_pylist():
            if row["split"] == name and before[row["user_id"]]:
                truth.append((row["user_id"], row["item_id"], list(before[row["user_id"]])))
            before[row["user_id"]].append(row["item_id"])
        assert found == truth
        assert truth


def test_leave_one_out_cases_are_what_before_and_targets_say() -> None:
    dataset = split("leave-one-out")
    cases, events = dataset.cases("test"), dataset.part("test")
    users, targets = events.rows, events.items
    assert (cases.users == users).all() and (cases.targets == targets).all()
    before = dataset.before("test")
    assert [row.tolist() for row in cases.histories] == [before[user].tolist() for user in users]


@pytest.mark.parametrize("held_out", [0.1, 0.2])
def test_a_temporal_split_is_one_moment_for_everybody_in_the_shares_asked_for(held_out: float) -> None:
    dataset = split("temporal", holdout_fraction=held_out)
    times = dataset.interactions["timestamp"].to_numpy()
    parts = [times[dataset.splits == part] for part in range(3)]
    assert parts[0].max() < parts[1].min() and parts[1].max() < parts[2].min()
    first = np.zeros(len(times), bool)
    first[dataset.histories.offsets[:-1]] = True
    # Of 840 events that are no user's first, the share; a moment that is not cut in two moves it by an event or two.
    for part in (1, 2):
        assert ((dataset.splits == part) & ~first).sum() == pytest.approx(held_out * (~first).sum(), abs=3)


def test_a_temporal_split_of_positions_is_refused() -> None:
    with pytest.raises(DataError, match="only positions in each user's history"):
        clean(raw("position"), Data(split="temporal"), 0)
    with pytest.raises(DataError, match="need clock times"):
        clean(raw("position"), Data(since="2020-01-01"), 0)


@pytest.mark.parametrize(("how", "column"), [("cold-items", "item_id"), ("cold-users", "user_id")])
def test_who_is_cold_is_cold_throughout_and_drawn_by_the_seed_and_its_id_alone(how: str, column: str) -> None:
    def parts(seed: int, events: int) -> dict[str, set[str]]:
        cleaned = clean(raw(events=events), Data.model_validate({"split": how, "holdout_fraction": 0.2}), seed)
        found: dict[str, set[str]] = defaultdict(set)
        for row in cleaned.interactions.to_pylist():
            found[row[column]].add(row["split"])
        return found

    whole, half, other = parts(1, 900), parts(1, 450), parts(2, 900)
    assert all(len(found) == 1 for found in whole.values())
    assert all(whole[name] == found for name, found in half.items())
    assert whole != other
    for name in ("valid", "test"):
        drawn = sum(found == {name} for found in whole.values())
        assert abs(drawn - 0.2 * len(whole)) < 4 * (0.16 * len(whole)) ** 0.5  # four deviations of a binomial


def write(folder: Path, parts: list[str]) -> Data:
    rows = "".join(f"u{n % 3},i{n % 4},{n},{part}\n" for n, part in enumerate(parts))
    (folder / "log.csv").write_text("user_id,item_id,timestamp,fold\n" + rows)
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},t{n}\n" for n in range(4)))
    files = {name: str(folder / f"{file}.csv") for name, file in (("interactions", "log"), ("items", "items"))}
    return Data.model_validate({"source": "files", "split": "column", "columns": {"split": "fold"}, **files})


def test_a_column_of_the_user_s_decides(tmp_path: Path) -> None:
    said = ["train", "Train", "training", "test", "dev", "validation", "val", "test", "train"]
    facts = data.make(write(tmp_path, said), 0, tmp_path)
    by_time = {row["timestamp"]: row["split"] for row in pq.read_table(tmp_path / "interactions.parquet").to_pylist()}
    expected = ["train"] * 3 + ["test", "valid", "valid", "valid", "test", "train"]
    assert [by_time[time] for time in range(9)] == expected
    assert facts["test cases"] == 2


def test_a_column_with_other_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 'holdout'; known are train, training"):
        data.make(write(tmp_path, ["train", "train", "holdout"]), 0, tmp_path)


def test_a_split_that_holds_out_nothing_is_refused_with_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no event `test`"):
        data.make(write(tmp_path, ["train"] * 6), 0, tmp_path)


@pytest.mark.parametrize("how", ["leave-one-out", "temporal", "cold-items", "cold-users", "column"])
def test_as_many_users_are_tested_as_have_a_held_out_event_that_something_came_before(how: str) -> None:
    source = raw()
    assert isinstance(source.interactions, pa.Table)
    parts = ["test" if row % 3 == 0 else "train" for row in range(source.interactions.num_rows)]
    source.interactions = source.interactions.append_column("part", [parts])
    named = {"source": "files", "interactions": "a.csv", "items": "b.csv", "columns": {"split": "part"}}
    cleaned = clean(source, Data.model_validate({"split": how} | named), 3)
    dataset = Dataset(cleaned.interactions, cleaned.items)
    tested, before = set(), set()
    for row in dataset.interactions.to_pylist():
        if row["split"] == "test" and row["user_id"] in before:
            tested.add(row["user_id"])
        before.add(row["user_id"])
    assert statistics(dataset, ["item_id"], "seconds")["users tested"] == len(tested) > 0
