"""Item-to-item models: a history times a matrix of weights between items (cosines of ItemKNN, regression of EASE)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.contracts import Memory, Sequences, Sizes
from llmrec.recipe.collaborative import EaseRecentSpec, EaseSpec, ItemKnnSpec

BLOCK = 64  # rows made dense at once; few rows hold few distinct items, so the products stay small
STRIP = 2048  # distinct items of a block that are multiplied at once, which bounds memory where histories are long
LEAF = 256  # a matrix of fewer rows is inverted whole


class ItemToItem(ArrayModel):
    """Scores an item by the sum of weights from the distinct items of a history; 0 for an empty history.

    Attributes:
        weights: (n_items, n_items) float32, set by `fit`; row = item of the history, column = scored item.
    """

    ARRAYS: ClassVar[Mapping[str, Shape]] = {"weights": ("float32", "items", "items")}
    weights: np.ndarray

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32."""
        return self.score_weighted(histories, np.ones(len(histories.items), dtype=np.float32))

    def score_weighted(self, histories: Sequences, event_weights: np.ndarray) -> np.ndarray:
        """As `score`, with a weight of each event, (events,) float32 >= 0; a repeated item has its largest."""
        scores = np.zeros((len(histories), len(self.weights)), dtype=np.float32)
        for rows, items, block in _dense_blocks(histories, event_weights):
            np.matmul(block[:, :STRIP], self.weights[items[:STRIP]], out=scores[rows])
            for start in range(STRIP, len(items), STRIP):
                scores[rows] += block[:, start : start + STRIP] @ self.weights[items[start : start + STRIP]]
        return scores

    def _memory(self, sizes: Sizes, rows: int, fit: int) -> Memory:
        """Bytes; `fit` are those that fitting needs beside the weights."""
        n = sizes.items
        score = 4 * n * (rows + min(STRIP, n) + 3 * BLOCK)  # the scores, and for one strip its weights and products
        return Memory(4 * n * n + fit + 24 * sizes.events, 4 * n * n + score)


class ItemKnn(ItemToItem):
    """ItemKNN: weights are cosines between the user sets of items, for the nearest few of each item.

    With c[a, b] the training users of both, the cosine is c[a, b] / (sqrt(c[a, a] c[b, b]) + `shrink`); all but the
    `neighbours` largest of each item are set to 0; ties with the smallest kept one are kept too.

    Source: Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms", WWW; the shrinkage is
    that of Bell and Koren 2007, which lowers the cosines of pairs that occur once or twice.
    """

    Spec = ItemKnnSpec
    spec: ItemKnnSpec

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        n_items, neighbours = len(self.items), self.spec.neighbours
        weights = _cooccurrence(train, n_items)
        lengths = np.sqrt(np.diag(weights).copy())
        weights[np.diag_indices(n_items)] = 0
        for item, row in enumerate(weights):
            row /= np.maximum(lengths[item] * lengths + self.spec.shrink, 1e-12)
            if neighbours < n_items:
                row[row < np.partition(row, -neighbours)[-neighbours]] = 0
        self.weights = weights

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """4 bytes for each pair of items, 5 while they are checked."""
        n = sizes.items
        return self._memory(sizes, rows, max(8 * n * min(STRIP, n) + 64 * n, n * n))


class Ease(ItemToItem):
    """EASE: weights that predict each item from the others by ridge regression, in closed form.

    Source: Steck 2019, "Embarrassingly shallow autoencoders for sparse data", arXiv 1905.03375, eq. 8.
    """

    Spec = EaseSpec
    spec: EaseSpec

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        diagonal = np.diag_indices(len(self.items))
        gram = _cooccurrence(train, len(self.items))
        gram[diagonal] += self.spec.l2
        _invert_in_place(gram)
        gram /= -np.diag(gram).copy()
        gram[diagonal] = 0
        self.weights = gram

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """6 bytes for each pair of items in `fit`, 4 afterwards: .9 and .6 GB at 12,000 items."""
        n = sizes.items
        return self._memory(sizes, rows, max(2 * n * n + 40 * LEAF * LEAF, 8 * n * min(STRIP, n)) + 64 * n)


class EaseRecent(ArrayModel):
    """EASE with weights that decay with each step back in the history; the part `ease` has the matrix. Ours."""

    Spec = EaseRecentSpec
    spec: EaseRecentSpec

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32: weights times decay ** steps back; 0 for histories without items."""
        ease, window = self.parts["ease"], self.spec.window
        assert isinstance(ease, Ease)
        steps_back = histories.offsets[1:][histories.rows] - 1 - np.arange(len(histories.items))
        event_weights = np.where(steps_back < window, self.spec.decay ** np.minimum(steps_back, window), 0)
        return ease.score_weighted(histories, event_weights.astype(np.float32))


def _cooccurrence(train: Sequences, n_items: int) -> np.ndarray:
    """(n_items, n_items) float32, number of rows of `train` with both items; on the diagonal, with the item."""
    counts = np.zeros((n_items, n_items), dtype=np.float32)
    for _, items, block in _dense_blocks(train, np.ones(len(train.items), dtype=np.float32)):
        for start in range(0, len(items), STRIP):
            strip = slice(start, start + STRIP)
            counts[np.ix_(items[strip], items)] += block[:, strip].T @ block
    return counts


def _dense_blocks(rows: Sequences, event_weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield blocks of `BLOCK` rows: the rows as a slice, their distinct items (i,), and (rows, i) float32 weights."""
    for start in range(0, len(rows), BLOCK):
        stop = min(start + BLOCK, len(rows))
        events = slice(rows.offsets[start], rows.offsets[stop])
        items, column = np.unique(rows.items[events], return_inverse=True)
        row = np.repeat(np.arange(stop - start), rows.lengths[start:stop])
        block = np.zeros((stop - start, len(items)), dtype=np.float32)
        np.maximum.at(block, (row, column), event_weights[events])
        yield slice(start, stop), items, block


def _invert_in_place(a: np.ndarray) -> None:
    """Invert a symmetric positive definite matrix by halves and their Schur complement.

    `np.linalg.inv` works in float64 with three copies, for any input; halves are float32 products, about four
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
