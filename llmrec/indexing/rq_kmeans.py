"""Residual k-means: level by level, k-means over what the levels before left unexplained.

Source: GRID (2507.22224) and OpenOneRec use it in place of RQ-VAE; Babenko and Lempitsky 2014 for residual quantizing.
Balanced: no code of a level has more items than its share, as in GREAM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.indexing.balanced import balanced_kmeans
from llmrec.indexing.distances import check_count, check_dim, kmeans, nearest, squared


@dataclass(frozen=True)
class Codebooks:
    """A fitted residual quantizer.

    Attributes:
        centroids: (levels, width, dim) float32.
    """

    centroids: np.ndarray

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.centroids.shape[2])

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid at each level, greedily.

        Args:
            vectors: (items, dim) float32.

        Returns:
            (items, levels) int32 codes, and (items, dim) float32, what the last level left unexplained.

        Raises:
            CodeError: vectors of another dimension than the codebooks'.
        """
        check_dim(vectors, self.dim)
        levels = len(self.centroids)
        residual = vectors.astype(np.float32).copy()
        codes = np.zeros((len(vectors), levels), np.int32)
        for level in range(levels):
            codes[:, level] = nearest(residual, self.centroids[level])
            residual -= self.centroids[level][codes[:, level]]
        return codes, residual

    def last(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances of what the levels before leave to every centroid of a level."""
        residual = vectors.astype(np.float32).copy()
        for before in range(level):
            residual -= self.centroids[before][codes[:, before]]
        return squared(residual, self.centroids[level])

    def arrays(self) -> dict[str, np.ndarray]:
        """The centroids."""
        return {"centroids": self.centroids}


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
    check_count(len(vectors), width)
    residual = np.ascontiguousarray(vectors, np.float32).copy()
    books = []
    for level in range(levels):
        books.append(kmeans(residual, width, seed % 2**31 + level))
        residual -= books[-1][nearest(residual, books[-1])]
    return Codebooks(np.stack(books))


def fit_balanced(vectors: np.ndarray, levels: int, width: int, seed: int) -> tuple[Codebooks, np.ndarray, np.ndarray]:
    """As `fit`, with no more than ceil(items / width) items to a code of a level.

    Returns:
        The codebooks, (items, levels) int32 codes (not those of `encode`, which knows no shares), and (items, dim)
        float32, what they leave unexplained.

    Raises:
        CodeError: fewer items than centroids.
    """
    check_count(len(vectors), width)
    residual = np.ascontiguousarray(vectors, np.float32).copy()
    books, codes = [], np.zeros((len(vectors), levels), np.int32)
    for level in range(levels):
        book, codes[:, level] = balanced_kmeans(residual, width, seed % 2**31 + level)
        residual -= book[codes[:, level]]
        books.append(book)
    return Codebooks(np.stack(books)), codes, residual
