"""Vectors of items from the company they keep: positive pointwise mutual information, cut to a few dimensions.

Source: Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization": truncated SVD of shifted PPMI,
symmetric weights (singular values to the half).
"""

from __future__ import annotations

import numpy as np
import torch

from llmrec.contracts import Sequences

REACH = 5  # two items meet where they stand at most so many steps apart in a history


def ppmi_vectors(train: Sequences, n_items: int, width: int, seed: int) -> np.ndarray:
    """Vectors whose inner products come near PPMI.

    Args:
        train: the training part of every history, oldest item first.
        n_items: of the catalogue.
        width: numbers of a vector; fewer where there are fewer items.
        seed: of the randomised SVD.

    Returns:
        (n_items, width) float32; zeros for an item that met none.
    """
    first, second, value = ppmi(train, n_items)
    width = min(width, n_items)
    if not len(value):
        return np.zeros((n_items, width), np.float32)
    places = torch.from_numpy(np.stack([first, second]))
    table = torch.sparse_coo_tensor(
        places, torch.from_numpy(value), (n_items, n_items), check_invariants=True
    ).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        left, size, _ = torch.svd_lowrank(table, q=min(n_items, width + 8), niter=4)
    vectors = (left[:, :width] * size[:width].sqrt()).numpy()
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])  # the SVD leaves them open
    met = np.bincount(first, minlength=n_items) > 0
    return np.ascontiguousarray(vectors * np.where(signs == 0, 1, signs) * met[:, None], np.float32)


def ppmi(train: Sequences, n_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where PPMI is positive: (n,) int64 items, (n,) int64 the items they met, (n,) float32 nats; sorted, symmetric."""
    rows, items = train.rows, train.items.astype(np.int64)
    met = []
    for step in range(1, REACH + 1):
        same = (rows[step:] == rows[:-step]) & (items[step:] != items[:-step])
        one, other = items[:-step][same], items[step:][same]
        met += [one * n_items + other, other * n_items + one]
    pairs, counts = np.unique(np.concatenate(met), return_counts=True)
    first, second = pairs // n_items, pairs % n_items
    total = np.bincount(first, counts, minlength=n_items)
    value = np.log(counts * total.sum() / (total[first] * total[second])) if len(pairs) else np.zeros(0)
    keep = value > 0
    return first[keep], second[keep], value[keep].astype(np.float32)
