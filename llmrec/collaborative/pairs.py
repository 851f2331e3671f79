"""Triples for pairwise losses: a training row, an item of it, and an item that it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmrec.contracts import Sequences


def batches(
    train: Sequences, n_items: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every event once, in a new order, each with a new negative.

    Args:
        train: rows that hold something.
        n_items: negatives are drawn evenly from all items; one in the row is drawn again, at most ten times.
        size: triples of a batch.
        rng: draws order and negatives.

    Yields:
        (batch,) int64 rows, their items, and the negatives.
    """
    own = np.unique(train.rows * n_items + train.items)
    order = rng.permutation(len(train.items))
    for start in range(0, len(order), size):
        events = order[start : start + size]
        rows = train.rows[events]
        negatives = rng.integers(0, n_items, len(events))
        for _ in range(10):
            clash = np.flatnonzero(_among(own, rows * n_items + negatives))
            if not len(clash):
                break
            negatives[clash] = rng.integers(0, n_items, len(clash))
        yield rows, train.items[events].astype(np.int64), negatives


def _among(sorted_keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(sorted_keys, asked), len(sorted_keys) - 1)
    return sorted_keys[place] == asked
