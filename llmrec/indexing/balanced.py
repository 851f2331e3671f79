"""k-means whose clusters all have about as many members.

An item goes to its nearest centroid that has room left; a centroid that more want takes the nearest of them, and the
others ask again among those with room. Assigning and averaging alternate, as in k-means.
"""

from __future__ import annotations

import numpy as np

from llmrec.indexing.distances import kmeans, squared

_BLOCK = 1 << 26  # distances held at once
_ROUNDS = 10  # of assigning and averaging


def balanced_kmeans(vectors: np.ndarray, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster into equal shares.

    Args:
        vectors: (items, dim) float32, at least `width` of them.
        width: clusters.
        seed: of the k-means start.

    Returns:
        (width, dim) float32 centroids, and (items,) int32 clusters of at most ceil(items / width) members.
    """
    centroids = kmeans(vectors, width, seed, rounds=10, apart=True)
    share = -(-len(vectors) // width)
    chosen = assign(vectors, centroids, share)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centroids)
        np.add.at(sums, chosen, vectors)
        counts = np.bincount(chosen, minlength=width)
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        again = assign(vectors, moved, share)
        if (again == chosen).all():
            return moved, again
        centroids, chosen = moved, again
    return centroids, chosen


def assign(vectors: np.ndarray, centroids: np.ndarray, share: int) -> np.ndarray:
    """(items,) int32 a centroid of each vector, none of which is given more than `share` times."""
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
        here = slice(start, start + step)
        table = squared(vectors[here], centroids[still])
        nearest = table.argmin(axis=1)
        choice[here], distance[here] = still[nearest], table[np.arange(len(table)), nearest]
    return choice, distance
