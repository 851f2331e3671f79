"""The data set of a run in memory: items by number, histories as flat arrays, splits and evaluation cases."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.checked import REMEDY, read_table
from llmrec.contracts import Sequences
from llmrec.data.clean import MONOTONE, clean
from llmrec.data.sources import read
from llmrec.errors import DataError, RunError
from llmrec.files import hash_json
from llmrec.recipe import Data
from llmrec.stage_record import RECORD_FILE, read_record

Split = Literal["train", "valid", "test"]
_SPLITS: list[str] = ["train", "valid", "test"]
_EVENTS = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "split": pa.string()}
_IDS = ["user_id", "item_id", "split"]
ROWS = 1 << 16  # rows per batch of `content_hash`; the hash does not depend on it


@dataclass(frozen=True)
class EvalCases:
    """Held-out events to predict, each with the user's earlier events; a user may have several.

    Attributes:
        users: (cases,) int64 user numbers.
        targets: (cases,) int32 item numbers.
        histories: items before each target, never empty.
    """

    users: np.ndarray
    targets: np.ndarray
    histories: Sequences


@dataclass(frozen=True)
class Dataset:
    """Interactions in history order, and items.

    Attributes:
        interactions: user_id, item_id, timestamp, split, …; sorted by user, oldest first.
        items: item_id, title, …; the row number of an item is its number in every array.
        facts: of the stage `data` (split, tie-break, …); empty if the data set was not loaded from a run.
    """

    interactions: pa.Table
    items: pa.Table
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, texts: bool = True) -> Dataset:
        """Read the folder of the stage `data`. Without `texts`, ratings and reviews are not loaded.

        Raises:
            RunError: a file is missing or damaged.
        """
        facts = read_record(folder)["facts"] if (folder / RECORD_FILE).is_file() else {}
        # Ids and splits repeat often: dictionary encoding saves memory.
        options: dict[str, Any] = {"columns": None if texts else list(_EVENTS), "read_dictionary": _IDS}
        interactions = read_table(folder / "interactions.parquet", _EVENTS, **options)
        items = read_table(folder / "items.parquet", {"item_id": pa.string()})
        if pc.count_distinct(items["item_id"]).as_py() < items.num_rows:
            raise RunError(f"{folder / 'items.parquet'} has an item_id twice. {REMEDY}")
        for name, rows in (("interactions", interactions.num_rows), ("items", items.num_rows)):
            if facts.get(name, rows) != rows:
                raise RunError(
                    f"{folder / name}.parquet has {rows} rows, but {RECORD_FILE} says {facts[name]}. {REMEDY}"
                )
        return cls(interactions, items, facts)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.items.num_rows

    @cached_property
    def item_ids(self) -> list[str]:
        """Item id by item number."""
        return self.items["item_id"].to_pylist()

    def check_catalogue(self, item_ids: list[str]) -> None:
        """Raise RunError if the items of a catalogue (ids by item number) differ from those of the data."""
        if item_ids != self.item_ids:
            raise RunError(
                f"the {len(item_ids)} items of the catalogue are not the {self.n_items} of the data in the same order: "
                f"the folders catalogue/ and data/ are of different runs. {REMEDY}"
            )

    @cached_property
    def user_ids(self) -> list[str]:
        """User id by user number, in the order of `histories`."""
        return self.interactions["user_id"].take(pa.array(self.histories.offsets[:-1])).to_pylist()

    @cached_property
    def histories(self) -> Sequences:
        """All events of all users, including held-out ones. For training use `before`.

        Raises:
            RunError: an event has an unknown item, or the rows are not sorted by user.
        """
        numbers = _positions(self.interactions["item_id"], self.items["item_id"].combine_chunks(), "item")
        starts, before, last = [np.zeros(1, np.int64)], 0, None
        for users in self.interactions["user_id"].chunks:  # one array of all ids can exceed Arrow's 32-bit offsets
            if not len(users):
                continue
            numbered = users.indices if pa.types.is_dictionary(users.type) else users
            change = np.flatnonzero(pc.not_equal(numbered[1:], numbered[:-1]).to_numpy(zero_copy_only=False)) + 1
            if last is not None and users[0].as_py() != last:
                change = np.concatenate([[0], change])
            starts.append(change + before)
            before, last = before + len(users), users[-1].as_py()
        offsets = np.concatenate([*starts, [before]]).astype(np.int64) if before else np.zeros(1, np.int64)
        first = self.interactions["user_id"].take(pa.array(offsets[:-1]))
        if len(first.unique()) < len(first):
            raise RunError(f"the interactions are not sorted by user. {REMEDY}")
        return Sequences(offsets, numbers.astype(np.int32))

    @cached_property
    def splits(self) -> np.ndarray:
        """(events,) int8: 0 train, 1 valid, 2 test, aligned with `histories.items`."""
        return _positions(self.interactions["split"], pa.array(_SPLITS), "split").astype(np.int8)

    def before(self, split: Split) -> Sequences:
        """Return the events of earlier splits, for predicting a split. `before("valid")` is the training part."""
        return self._kept(self.splits < max(_SPLITS.index(split), 1))

    def part(self, split: Split) -> Sequences:
        """Return the events of one split of every user; empty for users without any."""
        return self._kept(self.splits == _SPLITS.index(split))

    def _kept(self, keep: np.ndarray) -> Sequences:
        lengths = np.add.reduceat(keep, self.histories.offsets[:-1]) if len(keep) else np.zeros(0, np.int64)
        return Sequences(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), self.histories.items[keep])

    def cases(self, split: Split) -> EvalCases:
        """Return the held-out events of a split with all earlier events of their users; first events are left out."""
        events = np.flatnonzero(self.splits == _SPLITS.index(split))
        users = self.histories.rows[events]
        starts = self.histories.offsets[users]
        events, users, starts = (column[events > starts] for column in (events, users, starts))
        offsets = np.concatenate([[0], np.cumsum(events - starts)]).astype(np.int64)
        places = np.arange(offsets[-1])
        places += np.repeat(starts - offsets[:-1], np.diff(offsets))
        return EvalCases(users, self.histories.items[events], Sequences(offsets, self.histories.items[places]))


def _positions(column: pa.ChunkedArray, known: pa.Array, what: str) -> np.ndarray:
    """Return (rows,) the index of each value in `known`; RunError if a value is unknown."""
    indices = [np.zeros(0, np.int32)]
    for chunk in column.chunks:
        numbered = pa.types.is_dictionary(chunk.type)
        values = chunk.dictionary if numbered else chunk
        places = pc.fill_null(pc.index_in(values, value_set=known), -1).to_numpy(zero_copy_only=False)
        rows = places[chunk.indices.to_numpy(zero_copy_only=False)] if numbered else places
        if (rows < 0).any():
            value = chunk[int(np.argmax(rows < 0))].as_py()
            raise RunError(f"the interactions have the {what} '{value}', which the data lack. {REMEDY}")
        indices.append(rows)
    return np.concatenate(indices)


def make(data: Data, seed: int, folder: Path) -> dict[str, object]:
    """Run the stage `data`: read, clean, split and write the data; return the facts for `made.json`.

    Raises:
        DataError: as `sources.read` and `clean.clean`, or nothing is held out.
    """
    raw = read(data)
    cleaned = clean(raw, data, seed)
    cleaned.save(folder)
    dropped = cleaned.dropped
    del cleaned  # free its memory before the files are read
    dataset = Dataset.load(folder, texts=False)
    cases = dataset.cases("test")
    if not len(cases.users):
        raise DataError(_NOTHING_HELD_OUT[data.split])
    check_order(dataset, data.split in MONOTONE)
    return {
        "users": len(dataset.histories),
        "items": dataset.n_items,
        "interactions": dataset.interactions.num_rows,
        "test users": len(np.unique(cases.users)),
        "test cases": len(cases.users),
        "split": data.split,
        "timestamp unit": raw.unit,
        "tie-break": f"seeded random (seed {seed})",
        "dropped": dropped,
        **raw.origin,
    }


_RAISE = "raise data.holdout_fraction, or use data.split=leave-one-out"
_NOTHING_HELD_OUT = {
    "leave-one-out": "no user has three or more events, so nothing can be held out for test. "
    "More interactions are needed.",
    "temporal": f"nothing is late enough to be held out for test: {_RAISE}",
    "cold-items": f"no item was drawn for the test: {_RAISE}",
    "cold-users": f"no user was drawn for the test: {_RAISE}",
    "column": "the column of data.columns.split has no event `test` with an earlier event of the same user.",
}


def check_order(dataset: Dataset, monotone: bool = True) -> None:
    """Check that no data leaks: the timestamps of a user never decrease, nor do the splits if `monotone`.

    Raises:
        DataError: an event comes before an earlier one of the same user.
    """
    rows, times = dataset.histories.rows, dataset.interactions["timestamp"].to_numpy()
    backwards = np.diff(times) < 0
    if monotone:
        backwards |= np.diff(dataset.splits) < 0
    if (backwards & (rows[1:] == rows[:-1])).any():
        raise DataError(
            "an event comes before an earlier one of the same user: the split would leak. "
            "This is a bug; please report it."
        )


def content_hash(folder: Path) -> str:
    """Return a SHA-256 of names, types and values of both tables of a folder `data/`, independent of file layout.

    Raises:
        RunError: a file is missing.
    """
    paths = [folder / "interactions.parquet", folder / "items.parquet"]
    for path in paths:
        if not path.is_file():
            raise RunError(f"{path} is missing; `llmrec run` makes it.")
    return hash_json({path.name: _table_hashes(path) for path in paths})


def _table_hashes(path: Path) -> dict[str, list[str]]:
    """Return column → type, hash of the lengths of its values as text, hash of these texts."""
    file = pq.ParquetFile(path)
    kinds = {field.name: str(_value_type(field.type)) for field in file.schema_arrow}
    sizes, words = ({name: hashlib.sha256() for name in kinds} for _ in range(2))
    for batch in file.iter_batches(ROWS):
        for name in kinds:
            column = batch[name]
            if pa.types.is_nested(column.type):
                values = column.to_pylist()
                texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
                column = pa.array(texts, pa.string())
            column = column.cast(pa.string())
            lengths = pc.binary_length(column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            sizes[name].update(lengths.tobytes())
            words[name].update("".join(column.drop_null().to_pylist()).encode())
    return {name: [kind, sizes[name].hexdigest(), words[name].hexdigest()] for name, kind in sorted(kinds.items())}


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of values without dictionary encoding or large offsets."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_value_type(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) else kind
