"""The trivial teacher: everybody gets what most users have."""

from __future__ import annotations

from typing import Self

import numpy as np

from llmrec.contracts import Sequences


def users_of_items(train: Sequences, n_items: int) -> np.ndarray:
    """(n_items,) int64, how many rows of `train` hold each item; a repeat within a row counts once."""
    pairs = np.unique(train.rows * n_items + train.items)
    return np.bincount(pairs % n_items, minlength=n_items)


class Popularity:
    """Scores an item by the number of training users that have it.

    Attributes:
        users: (n_items,) int64, set by `fit`.
    """

    users: np.ndarray

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Count users per item; returns itself."""
        self.users = users_of_items(train, n_items)
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32, the same row for everybody; a copy that the caller may write to."""
        return np.tile(self.users.astype(np.float32), (len(histories), 1))
