"""ItemKNN: items that the same users have, by cosine, the nearest few of each.

Source: Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms", WWW; the shrinkage is that
of Bell and Koren 2007, which keeps pairs seen once or twice from looking certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.collaborative.linear import STRIP, cooccurrence, score_by, score_memory
from llmrec.contracts import Features, Memory, Sequences, Sizes
from llmrec.recipe.collaborative import ItemKnnSpec


class ItemKnn(ArrayModel):
    """Scores an item by its cosine with each distinct item of a history, summed.

    With c[a, b] the training users of both, the cosine is c[a, b] / (sqrt(c[a, a] c[b, b]) + `shrink`); all but the
    `neighbours` largest of each item count 0, and equal ones at the edge are all kept.

    Attributes:
        weights: (n_items, n_items) float32, set by `fit`; row = item of the history, column = item scored.
    """

    Spec = ItemKnnSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"weights": ("float32", "items", "items")}
    spec: ItemKnnSpec
    weights: np.ndarray

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        n_items, neighbours = len(self.items), self.spec.neighbours
        weights = cooccurrence(train, n_items)
        lengths = np.sqrt(np.diag(weights).copy())
        weights[np.diag_indices(n_items)] = 0
        for item, row in enumerate(weights):
            row /= np.maximum(lengths[item] * lengths + self.spec.shrink, 1e-12)
            if neighbours < n_items:
                row[row < np.partition(row, -neighbours)[-neighbours]] = 0
        self.weights = weights

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32: 0 for an empty history."""
        return score_by(self.weights, histories, np.ones(len(histories.items), dtype=np.float32))

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """4 bytes for each pair of items, 5 while they are checked."""
        n = sizes.items
        strips = 8 * n * min(STRIP, n) + 64 * n
        return Memory(4 * n * n + max(strips, n * n) + 24 * sizes.events, 4 * n * n + score_memory(n, rows))
