"""What item-to-item models share: co-occurrence counts, and histories times a matrix, without a sparse library."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmrec.contracts import Sequences

BLOCK = 64
"""Rows made dense at once. Few rows hold few distinct items, so the products stay small."""
STRIP = 2048
"""Distinct items of a block that are multiplied at once, which bounds memory where histories are long."""


def cooccurrence(train: Sequences, n_items: int) -> np.ndarray:
    """(n_items, n_items) float32, rows of `train` that hold both items; the diagonal is the rows that hold the item."""
    counts = np.zeros((n_items, n_items), dtype=np.float32)
    for _, items, block in dense_blocks(train, np.ones(len(train.items), dtype=np.float32)):
        for start in range(0, len(items), STRIP):
            strip = slice(start, start + STRIP)
            counts[np.ix_(items[strip], items)] += block[:, strip].T @ block
    return counts


def score_by(weights: np.ndarray, histories: Sequences, event_weights: np.ndarray) -> np.ndarray:
    """(rows, n_items) float32, the sum of the weights of the distinct items of each history.

    Args:
        weights: (n_items, n_items) float32; row = item of the history, column = item scored.
        histories: oldest item first.
        event_weights: (events,) float32 >= 0, what each event counts; of a repeated item, the largest.
    """
    scores = np.zeros((len(histories), len(weights)), dtype=np.float32)
    for rows, items, block in dense_blocks(histories, event_weights):
        np.matmul(block[:, :STRIP], weights[items[:STRIP]], out=scores[rows])
        for start in range(STRIP, len(items), STRIP):
            scores[rows] += block[:, start : start + STRIP] @ weights[items[start : start + STRIP]]
    return scores


def score_memory(n_items: int, rows: int) -> int:
    """Bytes of `score_by` beside the weights: the scores, and for one strip its weights and products."""
    return 4 * n_items * (rows + min(STRIP, n_items) + 3 * BLOCK)


def dense_blocks(rows: Sequences, event_weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Make `BLOCK` rows dense at a time.

    Yields:
        Which rows, their distinct items (i,), and (rows, i) float32, what each item counts in each row.
    """
    for start in range(0, len(rows), BLOCK):
        stop = min(start + BLOCK, len(rows))
        events = slice(rows.offsets[start], rows.offsets[stop])
        items, column = np.unique(rows.items[events], return_inverse=True)
        row = np.repeat(np.arange(stop - start), rows.lengths[start:stop])
        block = np.zeros((stop - start, len(items)), dtype=np.float32)
        np.maximum.at(block, (row, column), event_weights[events])
        yield slice(start, stop), items, block


def canonical(train: Sequences) -> Sequences:
    """The rows that hold anything, sorted by content, so that what is trained on them cannot depend on their order."""
    rows: list[np.ndarray] = [train[int(row)] for row in np.flatnonzero(train.lengths)]
    rows.sort(key=lambda row: row.astype(">i4").tobytes())
    return Sequences.of(rows)
