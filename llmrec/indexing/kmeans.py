"""k-means by faiss, plain and with clusters of equal size, and checks of vectors: what all quantizers share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import faiss
import numpy as np
import pyarrow as pa

from llmrec.errors import CodeError

_BLOCK = 1 << 26  # distances held at once
_ROUNDS = 10  # of assigning and averaging, for balanced clusters


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(rows,) int32 the nearest of (k, dim) centroids to each of (rows, dim) vectors."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    return index.search(np.ascontiguousarray(vectors), 1)[1][:, 0].astype(np.int32)


def squared(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(rows, k) float32 squared distances of (rows, dim) vectors to (k, dim) centroids."""
    cross = vectors @ centroids.T
    cross *= -2
    cross += np.square(vectors).sum(axis=1)[:, None]
    cross += np.square(centroids).sum(axis=1)
    return np.maximum(cross, 0, out=cross)


def kmeans(vectors: np.ndarray, width: int, seed: int, rounds: int = 25, plus_plus: bool = False) -> np.ndarray:
    """(width, dim) float32 centroids of (rows, dim) float32 vectors, by faiss; perhaps started by k-means++."""
    start = _plus_plus(vectors, width, seed) if plus_plus else None
    with _quiet():
        means = faiss.Kmeans(vectors.shape[1], width, niter=rounds, seed=seed % 2**31, min_points_per_centroid=1)
        means.train(vectors, init_centroids=start)
    return np.array(means.centroids)


def _plus_plus(vectors: np.ndarray, width: int, seed: int) -> np.ndarray:
    """(width, dim) float32 of the vectors, each drawn the likelier the farther it is from those before.

    Source: Arthur and Vassilvitskii 2007, k-means++; of at most 256 vectors a centroid, as faiss samples.
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
def _quiet() -> Iterator[None]:
    """faiss warns about few points for a centroid on the C level; the health report says it in words."""
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
    """Clusters of about equal size: assigning items to centroids with room and averaging alternate, as in k-means.

    Args:
        vectors: (items, dim) float32, at least `width` of them.
        width: clusters.
        seed: of the k-means start.

    Returns:
        (width, dim) float32 centroids, and (items,) int32 clusters of at most ceil(items / width) members.
    """
    centroids = kmeans(vectors, width, seed, rounds=10, plus_plus=True)
    share = -(-len(vectors) // width)
    chosen = _assign(vectors, centroids, share)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centroids)
        np.add.at(sums, chosen, vectors)
        counts = np.bincount(chosen, minlength=width)
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        again = _assign(vectors, means, share)
        if (again == chosen).all():
            return means, again
        centroids, chosen = means, again
    return centroids, chosen


def _assign(vectors: np.ndarray, centroids: np.ndarray, share: int) -> np.ndarray:
    """(items,) int32 a centroid of each vector, none of which is given more than `share` times.

    An item goes to its nearest centroid that has room; a centroid that more want takes the nearest of them, and the
    others go on among those with room.
    """
    room = np.full(len(centroids), share)
    chosen = np.full(len(vectors), -1, np.int32)
    left = np.arange(len(vectors))
    while len(left):
        choice, distance = _nearest_open(vectors[left], centroids, np.flatnonzero(room > 0))
        order = np.lexsort((left, distance, choice))
        wanted = choice[order]
        place = np.arange(len(order)) - np.searchsorted(wanted, wanted)
        taken = order[place < room[wanted]]
        chosen[left[taken]] = choice[taken]
        room -= np.bincount(choice[taken], minlength=len(centroids))
        left = np.flatnonzero(chosen < 0)
    return chosen


def _nearest_open(vectors: np.ndarray, centroids: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    choice, distance = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    step = max(1, _BLOCK // len(still))
    for start in range(0, len(vectors), step):
        rows = slice(start, start + step)
        table = squared(vectors[rows], centroids[still])
        column = table.argmin(axis=1)
        choice[rows], distance[rows] = still[column], table[np.arange(len(table)), column]
    return choice, distance


def check_count(items: int, width: int) -> None:
    """Refuse fewer items than codes of a level, by a `CodeError`."""
    if items < width:
        raise CodeError(
            f"{items} items cannot fill {width} codes a level. Set indexing.width to {max(2, items // 4)} or less."
        )


def check_dim(vectors: np.ndarray, dim: int) -> None:
    """Refuse vectors of another dimension, by a `CodeError`."""
    if vectors.shape[1] != dim:
        raise CodeError(
            f"vectors have {vectors.shape[1]} numbers but the codebooks {dim}: they come from another encoder."
        )


def check_finite(vectors: np.ndarray, item_ids: pa.Array | pa.ChunkedArray) -> None:
    """Refuse vectors that are zero or not finite, by a `CodeError` that names their items."""
    norms = np.linalg.norm(vectors, axis=1)
    for broken, what in ((~np.isfinite(norms), "not finite"), (norms == 0, "all zeros")):
        rows = np.flatnonzero(broken)
        if len(rows):
            shown = ", ".join(item_ids.take(pa.array(rows[:5])).to_pylist()) + ("…" if len(rows) > 5 else "")
            raise CodeError(f"{len(rows)} item(s) have a vector that is {what}: {shown}. Give them text, or leave out.")
