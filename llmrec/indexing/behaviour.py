"""Codes from what users did in the training part: numbered in order of first appearance, or clustered by company."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from llmrec.contracts import Sequences
from llmrec.errors import CodeError
from llmrec.indexing.codes import Drawn
from llmrec.indexing.distances import check_count


def sequential(train: Sequences, n_items: int, width: int, spares: int) -> Drawn:
    """Number items as they first appear, user after user; items that nobody had come last. Digits to base `width`.

    Args:
        train: the training part of every history.
        n_items: of the catalogue.
        width: base of the digits, which are the levels.
        spares: numbers kept for new items, at least.

    Source: OpenP5 (Xu et al. 2024, arXiv 2306.11134), sequential indexing; Hua et al. 2023, arXiv 2305.06569.
    """
    seen, first = np.unique(train.items, return_index=True)
    met = seen[np.argsort(first)]
    order = np.concatenate([met, np.setdiff1d(np.arange(n_items), met)])
    number = np.empty(n_items, np.int64)
    number[order] = np.arange(n_items)
    return numbered(number, width, n_items + spares)


def numbered(number: np.ndarray, width: int, room: int) -> Drawn:
    """Numbers as digits to base `width`, as many as `room` numbers need; every column has its own tokens.

    Args:
        number: (items,) int64, all different.
        width: base.
        room: numbers that there must be.
    """
    levels = 1
    while width**levels < room:
        levels += 1
    digits = number[:, None] // width ** np.arange(levels - 1, -1, -1) % width
    return Drawn.levels(digits, [width] * levels, number.astype(np.float64), unique="numbers")


def collaborative(train: Sequences, n_items: int, levels: int, width: int, near: np.ndarray | None, seed: int) -> Drawn:
    """Spectral clusters of the graph of who was met together, split again and again until they are small.

    Args:
        train: the training part of every history.
        n_items: of the catalogue.
        levels: splits at most.
        width: parts of a split; a cluster of no more items is not split.
        near: (items, dim) vectors by which an item that nobody had finds the item whose clusters it shares; None: the
            first item's.
        seed: of the eigenvectors' start.

    Raises:
        CodeError: there are no training events, or fewer items in them than codes of a level.

    Source: Hua et al. 2023, arXiv 2305.06569, collaborative indexing, and OpenP5's code for it (`cluster_qr`). There a
    code's tokens belong to a node of the tree; here they belong to its level.
    """
    graph = company(train, n_items)
    known = np.flatnonzero(np.asarray(graph.sum(axis=1)).ravel() > 0)
    if not len(known):
        raise CodeError("no two items share a training history, so there is nothing to cluster. Choose another method.")
    check_count(len(known), width)
    codes = np.full((n_items, levels), -1, np.int32)
    _split(graph, known, codes, 0, width, seed)
    strangers = np.setdiff1d(np.arange(n_items), known)
    if len(strangers):
        like = known[(near[strangers] @ near[known].T).argmax(axis=1)] if near is not None else known[:1]
        codes[strangers] = codes[like]
    codes = codes[:, (codes >= 0).any(axis=0)]  # levels at which some cluster was still to split
    return Drawn.levels(codes, [max(width, int(codes.max()) + 1)] * codes.shape[1], np.zeros(n_items))


def company(train: Sequences, n_items: int) -> Any:
    """(items, items) scipy sparse, in how many histories two items stand together; the diagonal is empty."""
    import scipy.sparse

    pairs = np.unique(np.stack([train.rows, train.items.astype(np.int64)]), axis=1)
    shape = (len(train), n_items)
    held = scipy.sparse.csr_matrix((np.ones(pairs.shape[1], np.float64), (pairs[0], pairs[1])), shape=shape)
    graph = (held.T @ held).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def _split(graph: Any, rows: np.ndarray, codes: np.ndarray, level: int, width: int, seed: int) -> None:
    """Cluster some items and write their numbers into a level, then each cluster into the next."""
    if level == codes.shape[1] or (len(rows) <= width and level):
        return
    labels = _spectral(graph[rows][:, rows], min(width, len(rows) - 1), seed) if len(rows) > 2 else np.zeros(len(rows))
    codes[rows, level] = labels
    for label in np.unique(labels):
        _split(graph, rows[labels == label], codes, level + 1, width, seed)


def _spectral(graph: Any, parts: int, seed: int) -> np.ndarray:
    """(items,) cluster of each item, in the order of each cluster's first item; one cluster where there is no edge."""
    from sklearn.cluster import SpectralClustering

    if graph.nnz == 0 or parts < 2:
        return np.zeros(graph.shape[0], np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the graph is not connected: parts of it are clusters too
        model = SpectralClustering(parts, affinity="precomputed", assign_labels="cluster_qr", random_state=seed % 2**31)
        labels = model.fit_predict(graph)
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label]
