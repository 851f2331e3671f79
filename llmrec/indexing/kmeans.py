"""k-means by faiss, plain and with clusters of equal size, and checks of vectors: shared by all quantizers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Literal

import faiss
import numpy as np
import pyarrow as pa

from llmrec.errors import CodeError

_BLOCK = 1 << 26  # distances held at once
_ROUNDS = 10  # of assignment and averaging, for balanced clusters


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(rows,) int32 index of the nearest of (k, dim) centroids to each of (rows, dim) vectors."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    return index.search(np.ascontiguousarray(vectors), 1)[1][:, 0].astype(np.int32)


def squared_distances(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(rows, k) float32 squared distances of (rows, dim) vectors to (k, dim) centroids."""
    distances = vectors @ centroids.T
    distances *= -2
    distances += np.square(vectors).sum(axis=1)[:, None]
    distances += np.square(centroids).sum(axis=1)
    return np.maximum(distances, 0, out=distances)


def kmeans(
    vectors: np.ndarray, width: int, seed: int, rounds: int = 25, init: Literal["random", "k-means++"] = "random"
) -> np.ndarray:
    """(width, dim) float32 centroids of (rows, dim) float32 vectors, by faiss."""
    start = _init_plus_plus(vectors, width, seed) if init == "k-means++" else None
    with _silent_stderr():
        model = faiss.Kmeans(vectors.shape[1], width, niter=rounds, seed=seed % 2**31, min_points_per_centroid=1)
        model.train(vectors, init_centroids=start)
    return np.array(model.centroids)


def _init_plus_plus(vectors: np.ndarray, width: int, seed: int) -> np.ndarray:
    """(width, dim) float32 initial centroids: vectors drawn in proportion to their squared distance to earlier ones.

    Source: Arthur and Vassilvitskii 2007, k-means++; on a sample of at most 256 vectors a centroid, as faiss takes.
    """
    rng = np.random.default_rng(seed)
    sample = vectors[rng.permutation(len(vectors))[: 256 * width]]
    chosen, distance = [int(rng.integers(len(sample)))], np.full(len(sample), np.inf)
    while len(chosen) < width:
        distance = np.minimum(distance, np.square(sample - sample[chosen[-1]]).sum(axis=1))
        total = distance.sum()
        chosen.append(int(rng.choice(len(sample), p=distance / total if total > 0 else None)))
    return np.ascontiguousarray(sample[chosen], np.float32)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide faiss's warning, written by C code, about few points a centroid; the health report covers it."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def balanced_kmeans(vectors: np.ndarray, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """k-means of (items, dim) float32 vectors with clusters of at most ceil(items / width) members.

    Assignment under this limit and averaging alternate.

    Returns:
        (width, dim) float32 centroids, and (items,) int32 labels.
    """
    centroids = kmeans(vectors, width, seed, rounds=10, init="k-means++")
    limit = -(-len(vectors) // width)
    labels = _assign(vectors, centroids, limit)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centroids)
        np.add.at(sums, labels, vectors)
        counts = np.bincount(labels, minlength=width)
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        new_labels = _assign(vectors, means, limit)
        if (new_labels == labels).all():
            return means, new_labels
        centroids, labels = means, new_labels
    return centroids, labels


def _assign(vectors: np.ndarray, centroids: np.ndarray, limit: int) -> np.ndarray:
    """(items,) int32 a centroid for each vector, none of which gets more than `limit` vectors.

    Each round, every remaining vector chooses its nearest centroid with room, and each centroid keeps the nearest of
    the vectors that chose it.
    """
    room = np.full(len(centroids), limit)
    labels = np.full(len(vectors), -1, np.int32)
    rest = np.arange(len(vectors))
    while len(rest):
        choice, distance = _nearest_available(vectors[rest], centroids, np.flatnonzero(room > 0))
        order = np.lexsort((rest, distance, choice))
        chosen = choice[order]
        rank = np.arange(len(order)) - np.searchsorted(chosen, chosen)
        accepted = order[rank < room[chosen]]
        labels[rest[accepted]] = choice[accepted]
        room -= np.bincount(choice[accepted], minlength=len(centroids))
        rest = np.flatnonzero(labels < 0)
    return labels


def _nearest_available(
    vectors: np.ndarray, centroids: np.ndarray, available: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    choice, distance = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    step = max(1, _BLOCK // len(available))
    for start in range(0, len(vectors), step):
        rows = slice(start, start + step)
        distances = squared_distances(vectors[rows], centroids[available])
        column = distances.argmin(axis=1)
        choice[rows], distance[rows] = available[column], distances[np.arange(len(distances)), column]
    return choice, distance


def check_count(items: int, width: int) -> None:
    """Raise CodeError if there are fewer items than codes of a level."""
    if items < width:
        raise CodeError(
            f"{items} items cannot fill {width} codes a level. Set indexing.width to {max(2, items // 4)} or less."
        )


def check_dim(vectors: np.ndarray, dim: int) -> None:
    """Raise CodeError if vectors have another dimension."""
    if vectors.shape[1] != dim:
        raise CodeError(
            f"vectors have {vectors.shape[1]} numbers but the codebooks {dim}: they come from another encoder."
        )


def check_finite(vectors: np.ndarray, item_ids: pa.Array | pa.ChunkedArray) -> None:
    """Raise CodeError if vectors are zero or not finite; the message names their items."""
    norms = np.linalg.norm(vectors, axis=1)
    for broken, problem in ((~np.isfinite(norms), "not finite"), (norms == 0, "all zeros")):
        rows = np.flatnonzero(broken)
        if len(rows):
            shown = ", ".join(item_ids.take(pa.array(rows[:5])).to_pylist()) + ("…" if len(rows) > 5 else "")
            raise CodeError(
                f"{len(rows)} item(s) have a vector that is {problem}: {shown}. Give them text, or leave them out."
            )
