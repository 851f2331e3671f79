"""Squared distances to centroids, the nearest of them, and k-means: what all quantizers share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import faiss
import numpy as np
import pyarrow as pa

from llmrec.errors import CodeError


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


def kmeans(vectors: np.ndarray, width: int, seed: int, rounds: int = 25, apart: bool = False) -> np.ndarray:
    """(width, dim) float32 centroids of (rows, dim) float32 vectors, by faiss; `apart`: started by k-means++."""
    start = _apart(vectors, width, seed) if apart else None
    with quiet():
        means = faiss.Kmeans(vectors.shape[1], width, niter=rounds, seed=seed % 2**31, min_points_per_centroid=1)
        means.train(vectors, init_centroids=start)
    return np.array(means.centroids)


def _apart(vectors: np.ndarray, width: int, seed: int) -> np.ndarray:
    """(width, dim) float32 of the vectors, each drawn the likelier the farther it is from those before.

    Source: Arthur and Vassilvitskii 2007, k-means++; of at most 256 vectors a centroid, as faiss samples.
    """
    draw = np.random.default_rng(seed)
    some = vectors[draw.permutation(len(vectors))[: 256 * width]]
    chosen, far = [int(draw.integers(len(some)))], np.full(len(some), np.inf)
    while len(chosen) < width:
        far = np.minimum(far, np.square(some - some[chosen[-1]]).sum(axis=1))
        total = far.sum()
        chosen.append(int(draw.choice(len(some), p=far / total if total > 0 else None)))
    return np.ascontiguousarray(some[chosen], np.float32)


def check_count(items: int, width: int) -> None:
    """Refuse fewer items than codes of a level.

    Raises:
        CodeError: there are.
    """
    if items < width:
        raise CodeError(
            f"{items} items cannot fill {width} codes a level. Set indexing.width to {max(2, items // 4)} or less."
        )


def check_dim(vectors: np.ndarray, dim: int) -> None:
    """Refuse vectors of another encoder.

    Raises:
        CodeError: they have another number of numbers.
    """
    if vectors.shape[1] != dim:
        raise CodeError(
            f"vectors have {vectors.shape[1]} numbers but the codebooks {dim}: they come from another encoder."
        )


def check_finite(vectors: np.ndarray, item_ids: pa.Array | pa.ChunkedArray) -> None:
    """Refuse vectors that no distance can be measured from.

    Raises:
        CodeError: names the items whose vectors are zero or hold what is not a number.
    """
    norms = np.linalg.norm(vectors, axis=1)
    for broken, what in ((~np.isfinite(norms), "not finite"), (norms == 0, "all zeros")):
        rows = np.flatnonzero(broken)
        if len(rows):
            shown = ", ".join(item_ids.take(pa.array(rows[:5])).to_pylist()) + ("…" if len(rows) > 5 else "")
            raise CodeError(f"{len(rows)} item(s) have a vector that is {what}: {shown}. Give them text, or leave out.")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
