"""Triples for pairwise losses: a training row, an item of it, and an item that it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from llmrec.contracts import Sequences


def batches(
    train: Sequences, n_items: int, size: int, rng: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every event once, in a new order, each with a new negative.

    Args:
        train: rows that hold something.
        n_items: negatives are drawn evenly from all items; one in the row is drawn again, at most ten times.
        size: triples of a batch.
        rng: draws order and negatives.
        device: of the tensors.

    Yields:
        (batch,) int64 rows, their items, and the negatives.
    """
    pairs = np.unique(train.rows * n_items + train.items)
    order = rng.permutation(len(train.items))
    for start in range(0, len(order), size):
        events = order[start : start + size]
        rows = train.rows[events]
        negatives = rng.integers(0, n_items, len(events))
        for _ in range(10):
            positive = np.flatnonzero(_contains(pairs, rows * n_items + negatives))
            if not len(positive):
                break
            negatives[positive] = rng.integers(0, n_items, len(positive))
        triple = rows, train.items[events].astype(np.int64), negatives
        yield tuple(torch.from_numpy(part).to(device) for part in triple)  # type: ignore[misc]


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    position = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[position] == keys
