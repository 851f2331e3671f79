"""Residual k-means: level by level, k-means over what the levels before left unexplained.

Source: GRID (2507.22224) and OpenOneRec use it in place of RQ-VAE; Babenko and Lempitsky 2014 for residual quantizing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np

from llmrec.errors import CodeError


@dataclass(frozen=True)
class Codebooks:
    """A fitted residual quantizer.

    Attributes:
        centroids: (levels, width, dim) float32.
    """

    centroids: np.ndarray

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid at each level, greedily.

        Args:
            vectors: (items, dim) float32.

        Returns:
            (items, levels) int32 codes, and (items, dim) float32, what the last level left unexplained.

        Raises:
            CodeError: vectors of another dimension than the codebooks'.
        """
        levels, _, dim = self.centroids.shape
        if vectors.shape[1] != dim:
            raise CodeError(
                f"vectors have {vectors.shape[1]} numbers but the codebooks {dim}: they come from another encoder."
            )
        residual = vectors.astype(np.float32).copy()
        codes = np.zeros((len(vectors), levels), np.int32)
        for level in range(levels):
            codes[:, level] = _nearest(residual, self.centroids[level])
            residual -= self.centroids[level][codes[:, level]]
        return codes, residual


def fit(vectors: np.ndarray, levels: int, width: int, seed: int) -> Codebooks:
    """Fit `levels` codebooks of `width` centroids.

    Args:
        vectors: (items, dim) float32, finite.
        levels: how many.
        width: centroids of each.
        seed: of the k-means starts.

    Raises:
        CodeError: fewer items than centroids.
    """
    if len(vectors) < width:
        raise CodeError(
            f"{len(vectors)} items cannot fill {width} codes a level. "
            f"Set indexing.width to {max(2, len(vectors) // 4)} or less."
        )
    residual = np.ascontiguousarray(vectors, np.float32).copy()
    books = []
    for level in range(levels):
        with _quiet():
            means = faiss.Kmeans(
                residual.shape[1], width, niter=25, seed=seed % 2**31 + level, min_points_per_centroid=1
            )
            means.train(residual)
        books.append(np.array(means.centroids))
        residual -= books[-1][_nearest(residual, books[-1])]
    return Codebooks(np.stack(books))


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    return index.search(np.ascontiguousarray(vectors), 1)[1][:, 0].astype(np.int32)


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
