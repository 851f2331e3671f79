"""ItemKNN: items that the same people had, by cosine, the nearest few of each.

Source: Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms", WWW; the shrinkage is that
of Bell and Koren 2007, which keeps pairs seen once or twice from looking certain.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from llmrec.collaborative.linear import cooccurrence, score_by
from llmrec.contracts import Sequences


class ItemKnn:
    """Scores an item by its cosine with each distinct item of a history, summed.

    With c[a, b] the training users of both, the cosine is c[a, b] / (sqrt(c[a, a] c[b, b]) + `shrink`).

    Args:
        neighbours: how many nearest items of each keep their cosine; all others count nothing.
        shrink: users by which every pair is made less sure, at least 0.

    Attributes:
        weights: (n_items, n_items) float32, set by `fit`; row = item of the history, column = item scored.
    """

    weights: np.ndarray

    def __init__(self, neighbours: int = 100, shrink: float = 10.0) -> None:
        self.neighbours = neighbours
        self.shrink = shrink

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Count pairs and keep the nearest; holds 4 bytes for each pair of items. Returns itself."""
        weights = cooccurrence(train, n_items)
        lengths = np.sqrt(np.diag(weights).copy())
        weights[np.diag_indices(n_items)] = 0
        for item, row in enumerate(weights):
            row /= np.maximum(lengths[item] * lengths + self.shrink, 1e-12)
            if self.neighbours < n_items:
                row[row < np.partition(row, -self.neighbours)[-self.neighbours]] = 0
        self.weights = weights
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32: 0 for an empty history; equal cosines at the edge are all kept."""
        return score_by(self.weights, histories, np.ones(len(histories.items), dtype=np.float32))
