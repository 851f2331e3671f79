"""The data set in memory: histories and splits against loops over rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.errors import DataError, RunError
from llmrec.recipe import Data


def test_arrays_say_what_the_rows_say(tiny_run: Path) -> None:
    dataset = Dataset.load(tiny_run / "data")
    rows = dataset.interactions.to_pylist()
    histories: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        histories.setdefault(row["user_id"], []).append(row)
    assert dataset.user_ids == list(histories)
    for split, earlier in (("valid", {"train"}), ("test", {"train", "valid"})):
        before = dataset.before(split)  # type: ignore[arg-type]
        events = dataset.part(split)  # type: ignore[arg-type]
        for number, own in enumerate(histories.values()):
            seen = [row["item_id"] for row in own if row["split"] in earlier]
            assert [dataset.item_ids[item] for item in before[number]] == seen
        held_out = [(row["user_id"], row["item_id"]) for row in rows if row["split"] == split]
        named = zip(
            (dataset.user_ids[u] for u in events.rows), (dataset.item_ids[i] for i in events.items), strict=True
        )
        assert list(named) == held_out


def test_users_without_a_training_event_before_a_split_keep_their_place(tmp_path: Path) -> None:
    """Histories are told by user number, so an empty one must not shift those after it."""
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"{u},i{t},{t}\n" for u in ("a", "b", "c") for t in range(3))
    )
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{t},t{t}\n" for t in range(3)))
    (tmp_path / "data").mkdir()
    source = Data(source="files", interactions=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"))
    data.make(source, 0, tmp_path / "data")
    before = Dataset.load(tmp_path / "data").before("valid")
    assert [row.tolist() for row in before] == [[0], [0], [0]]


def test_a_log_too_short_for_a_test_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\na,i1,1\na,i2,2\nb,i1,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\ni1,x\ni2,y\n")
    source = Data(source="files", interactions=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"))
    with pytest.raises(DataError, match="no user has three"):
        data.make(source, 0, tmp_path)


def test_a_folder_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"interactions\.parquet is missing"):
        Dataset.load(tmp_path)


def test_ids_as_numbers_into_a_dictionary_give_the_same_histories() -> None:
    users = ["a", "a", "b", "b", "b", "c"]
    columns = {"user_id": users, "item_id": ["x", "y", "y", "x", "z", "y"], "split": ["train", "valid"] * 3}
    table, items = pa.table(columns), pa.table({"item_id": ["x", "y", "z"]})
    plain = Dataset(table, items)
    for cut in range(7):  # each part has a dictionary of its own, and a user may be in both
        parts = [table.slice(0, cut), table.slice(cut)]
        numbered = pa.concat_tables(
            [pa.table({name: part[name].combine_chunks().dictionary_encode() for name in columns}) for part in parts]
        )
        found = Dataset(numbered, items)
        assert found.histories.offsets.tolist() == plain.histories.offsets.tolist() == [0, 2, 5, 6]
        assert found.histories.items.tolist() == plain.histories.items.tolist() == [0, 1, 1, 0, 2, 1]
        assert found.splits.tolist() == [0, 1] * 3 and found.user_ids == ["a", "b", "c"]
