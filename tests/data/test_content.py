"""The hash of what a data folder says: blind to how its files are written, and to nothing that they say."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data.dataset import content_hash

EVENTS = {"user_id": ["u1", "u1", "u2"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3], "rating": [1.5, None, 2.0]}
ITEMS = {"item_id": ["a", "b"], "title": ["A", None], "genres": [["x", "y"], []]}


def written(folder: Path, events: dict, items: dict, **how: object) -> str:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(events), folder / "interactions.parquet", **how)
    pq.write_table(pa.table(items), folder / "items.parquet", **how)
    return content_hash(folder)


def test_the_same_words_written_otherwise_are_the_same_data(tmp_path: Path) -> None:
    usual = written(tmp_path / "a", EVENTS, ITEMS)
    assert written(tmp_path / "b", EVENTS, ITEMS, row_group_size=1, compression="none", version="1.0") == usual
    numbered = EVENTS | {"user_id": pa.array(EVENTS["user_id"]).dictionary_encode()}
    assert written(tmp_path / "c", numbered, ITEMS) == usual
    assert written(tmp_path / "d", dict(reversed(EVENTS.items())), ITEMS) == usual


@pytest.mark.parametrize(
    ("events", "items"),
    [
        ({"timestamp": [1, 3, 2]}, {}),
        ({"user_id": ["u1", "u2", "u2"]}, {}),
        ({"user_id": ["u1", "u1u", "2"]}, {}),  # the same letters, cut elsewhere
        ({"rating": [1.5, 2.0, None]}, {}),
        ({}, {"title": ["A", ""]}),  # an empty title is no missing one
        ({}, {"genres": [["x"], ["y"]]}),
        ({}, {"item_id": ["b", "a"]}),  # items are numbered by their rows
        ({}, {"more": [1, 2]}),
    ],
)
def test_other_words_are_other_data(events: dict, items: dict, tmp_path: Path) -> None:
    usual = written(tmp_path / "a", EVENTS, ITEMS)
    assert written(tmp_path / "b", EVENTS | events, ITEMS | items) != usual
