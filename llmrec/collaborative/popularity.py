"""Popularity: every user gets the items that most training users have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.contracts import Features, Memory, Sequences, Sizes
from llmrec.recipe.collaborative import PopularitySpec


def users_of_items(train: Sequences, n_items: int) -> np.ndarray:
    """(n_items,) int64, how many rows of `train` hold each item; a repeat within a row counts once."""
    pairs = np.unique(train.rows * n_items + train.items)
    return np.bincount(pairs % n_items, minlength=n_items)


class Popularity(ArrayModel):
    """Scores an item by the number of training users that have it.

    Attributes:
        users: (n_items,) int64, set by `fit`.
    """

    Spec = PopularitySpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"users": ("int64", "items")}
    users: np.ndarray

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        self.users = users_of_items(train, len(self.items))

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32, the same row for every history."""
        return np.tile(self.users.astype(np.float32), (len(histories), 1))

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """Some numbers for each event, and the scores."""
        return Memory(40 * sizes.events + 16 * sizes.items, 4 * (rows + 3) * sizes.items)
