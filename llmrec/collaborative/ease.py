"""EASE: a linear item-to-item model in closed form, on whole histories or on recent items.

Source: Steck 2019, "Embarrassingly shallow autoencoders for sparse data", arXiv 1905.03375, eq. 8. The decayed history
is ours: the weights are the same, only the vector they are applied to changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.collaborative.linear import STRIP, cooccurrence, score_by, score_memory
from llmrec.contracts import Features, Memory, Sequences, Sizes
from llmrec.recipe.collaborative import EaseRecentSpec, EaseSpec

LEAF = 256  # a matrix of fewer rows is inverted whole


class Ease(ArrayModel):
    """Scores an item by the learnt weights between it and the distinct items of a history, summed.

    Attributes:
        weights: (n_items, n_items) float32, set by `fit`; row = item of the history, column = item scored.
    """

    Spec = EaseSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"weights": ("float32", "items", "items")}
    spec: EaseSpec
    weights: np.ndarray

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        diagonal = np.diag_indices(len(self.items))
        gram = cooccurrence(train, len(self.items))
        gram[diagonal] += self.spec.l2
        _invert_in_place(gram)
        gram /= -np.diag(gram).copy()
        gram[diagonal] = 0
        self.weights = gram

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32: 0 for an empty history."""
        return self.score_weighted(histories, np.ones(len(histories.items), dtype=np.float32))

    def score_weighted(self, histories: Sequences, event_weights: np.ndarray) -> np.ndarray:
        """As `score`, with what each event counts: (events,) float32 >= 0; of a repeated item, the largest."""
        return score_by(self.weights, histories, event_weights)

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """6 bytes for each pair of items in `fit`, 4 afterwards: .9 and .6 GB at 12,000 items."""
        n = sizes.items
        temporary = max(2 * n * n + 40 * LEAF * LEAF, 8 * n * min(STRIP, n))
        return Memory(4 * n * n + temporary + 24 * sizes.events + 64 * n, 4 * n * n + score_memory(n, rows))


class EaseRecent(ArrayModel):
    """EASE on the last items of a history, each step back counting less; its part `ease` has the weights."""

    Spec = EaseRecentSpec
    spec: EaseRecentSpec

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        """Nothing is learnt beside the part."""

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32: weights times decay ** steps back; 0 for histories without items."""
        ease, window = self.parts["ease"], self.spec.window
        assert isinstance(ease, Ease)
        steps_back = histories.offsets[1:][histories.rows] - 1 - np.arange(len(histories.items))
        event_weights = np.where(steps_back < window, self.spec.decay ** np.minimum(steps_back, window), 0)
        return ease.score_weighted(histories, event_weights.astype(np.float32))

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """Nothing beside the part."""
        return Memory(0, 0)


def _invert_in_place(a: np.ndarray) -> None:
    """Invert a symmetric positive definite matrix by halves and their Schur complement.

    `np.linalg.inv` works in float64 with three copies, whatever it is given; halves are float32 products, about four
    times as fast and in a fifth of the memory. The leaves are small enough to be left to float64.
    """
    half = len(a) // 2
    if half < LEAF:
        try:
            a[:] = np.linalg.inv(a)
        except np.linalg.LinAlgError:  # singular: `fit` refuses what is not finite
            a[:] = np.nan
        return
    first, beside, last = a[:half, :half], a[:half, half:], a[half:, half:]
    _invert_in_place(first)
    product = first @ beside
    last -= beside.T @ product
    _invert_in_place(last)
    beside[:] = product @ last
    first += beside @ product.T
    beside *= -1
    a[half:, :half] = beside.T
