"""How far codes agree with what is known of items: their categories, the company they keep, their text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.indexing.codes import groups
from llmrec.indexing.kmeans import kmeans, nearest
from llmrec.indexing.methods import category_path
from llmrec.items.vectors import ppmi_vectors

CLUSTERS, WIDTH = 32, 32  # that codes are compared with; numbers of a vector of co-occurrence
_MOST = 200_000  # items beyond which co-occurrence is not clustered


def measure(
    codes: np.ndarray,
    text: np.ndarray | None,
    seed: int,
    items: pa.Table | None = None,
    train: Sequences | None = None,
    category: str = "category",
) -> dict[str, Any]:
    """Agreement, as normalised mutual information, 0 to 1.

    Args:
        codes: (items, longest) int32 symbols, padded at the end by -1.
        text: (items, dim) float32 vectors of the items' text, or None.
        seed: of the clusters.
        items: with a column of categories, or not.
        train: the training part of every history; items without events are left out of its figures.
        category: the column of categories.

    Returns:
        What can be measured: `category_nmi` and `company_nmi`, a figure a prefix of one, two, … tokens; `dominance`,
        NMI of first tokens with clusters of text less NMI with clusters of co-occurrence.
    """
    found: dict[str, Any] = {}
    prefixes = [groups(codes[:, : length + 1])[0] for length in range(min(codes.shape[1] - 1, 4) or 1)]
    column = next((name for name in (category, "genres", "kind") if items and name in items.column_names), None)
    if items is not None and column:
        names = [category_path(cell)[0] for cell in items[column].to_pylist()]
        found["category_nmi"] = [round(nmi(prefix, np.unique(names, return_inverse=True)[1]), 4) for prefix in prefixes]
    if train is None or not len(train.items) or len(codes) > _MOST:
        return found
    vectors = ppmi_vectors(train, len(codes), WIDTH, seed)
    met = np.flatnonzero(np.square(vectors).sum(axis=1) > 0)
    if len(met) < 4:
        return found
    company = _clusters(vectors[met] / np.linalg.norm(vectors[met], axis=1, keepdims=True), seed)
    found["company_nmi"] = [round(nmi(prefix[met], company), 4) for prefix in prefixes]
    if text is not None:
        found["dominance"] = round(nmi(prefixes[0][met], _clusters(text[met], seed)) - found["company_nmi"][0], 4)
    return found


def nmi(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two labellings over the mean of their entropies; 1 where both have one label alone.

    Args:
        one, other: (items,) int labels, from 0.
    """
    table = np.unique(np.stack([one, other]), axis=1, return_counts=True)
    joint = table[1] / len(one)
    p, q = np.bincount(one) / len(one), np.bincount(other) / len(other)
    shared = float((joint * np.log(joint / (p[table[0][0]] * q[table[0][1]]))).sum())
    mean = (_entropy(p) + _entropy(q)) / 2
    return max(0.0, shared / mean) if mean > 0 else 1.0


def alike(vectors: np.ndarray) -> int:
    """How many of (items, dim) float32 unit vectors lie within 1e-4 of another: items of the same text, mostly.

    Sorted by what they are along one direction, the like stand beside each other.
    """
    direction = np.random.default_rng(0).standard_normal((vectors.shape[1],), np.float32)
    order = np.argsort(vectors @ direction)
    twin = np.zeros(len(vectors) + 1, bool)
    for start in range(0, len(vectors) - 1, 4096):
        rows = vectors[order[start : start + 4097]]
        twin[start + 1 : start + len(rows)] = np.square(np.diff(rows, axis=0)).sum(axis=1) < 1e-8
    return int((twin[1:] | twin[:-1]).sum())


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    return nearest(vectors, kmeans(vectors, min(CLUSTERS, len(vectors) // 2), seed % 2**31))
