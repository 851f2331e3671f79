"""The few shapes that floors hand to one another. Everything here is plain data or a protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sequences:
    """Many item sequences, oldest item first, as one flat array.

    Attributes:
        offsets: (rows + 1,) int64; row r is items[offsets[r]:offsets[r + 1]].
        items: (events,) int32, row numbers of the dataset's `items` table.
    """

    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | np.ndarray]) -> Sequences:
        """Pack a list of item sequences."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        return cls(offsets, np.concatenate(arrays) if arrays else np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int64, events of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """(events,) int64, the row that each event belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)


class Teacher(Protocol):
    """A collaborative model: a baseline, a source of negatives, or of codes."""

    def fit(self, train: Sequences, n_items: int) -> Teacher:
        """Learn from the training part of every history; returns itself."""
        ...

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32, larger is better. Nothing is excluded; callers exclude seen items."""
        ...
