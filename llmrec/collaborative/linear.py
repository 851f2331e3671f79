"""What item-to-item models share: co-occurrence counts, and a history times a matrix, without a sparse library."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmrec.contracts import Sequences

BLOCK = 64
"""Rows made dense at once. Few rows touch few items, so the products stay small."""


def cooccurrence(train: Sequences, n_items: int) -> np.ndarray:
    """(n_items, n_items) float32, rows of `train` that hold both items; the diagonal is the rows that hold the item."""
    counts = np.zeros((n_items, n_items), dtype=np.float32)
    for _, items, block in dense_blocks(train, np.ones(len(train.items), dtype=np.float32)):
        counts[np.ix_(items, items)] += block.T @ block
    return counts


def score_by(weights: np.ndarray, histories: Sequences, worth: np.ndarray) -> np.ndarray:
    """(rows, n_items) float32, the sum of the weights of the distinct items of each history.

    Args:
        weights: (n_items, n_items) float32; row = item of the history, column = item scored.
        histories: oldest item first.
        worth: (events,) float32 >= 0, what each event counts; of a repeated item, the largest.
    """
    scores = np.zeros((len(histories), len(weights)), dtype=np.float32)
    for rows, items, block in dense_blocks(histories, worth):
        np.matmul(block, weights[items], out=scores[rows])
    return scores


def dense_blocks(rows: Sequences, worth: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield `BLOCK` rows at a time: which rows, their distinct items (i,), and a (rows, i) float32 matrix of worth."""
    for start in range(0, len(rows), BLOCK):
        stop = min(start + BLOCK, len(rows))
        events = slice(rows.offsets[start], rows.offsets[stop])
        items, column = np.unique(rows.items[events], return_inverse=True)
        row = np.repeat(np.arange(stop - start), rows.lengths[start:stop])
        block = np.zeros((stop - start, len(items)), dtype=np.float32)
        np.maximum.at(block, (row, column), worth[events])
        yield slice(start, stop), items, block


def canonical(train: Sequences) -> Sequences:
    """The rows that hold anything, sorted by content, so that what is trained on them cannot depend on their order."""
    rows: list[np.ndarray] = [train[int(row)] for row in np.flatnonzero(train.lengths)]
    rows.sort(key=lambda row: row.astype(">i4").tobytes())
    return Sequences.of(rows)
