"""Product quantization: a vector is cut into parts, each with a codebook of its own; OPQ turns it first.

Source: Jégou et al. 2011 (PQ); Ge et al. 2013 (OPQ). Codes of a part do not depend on those of the parts before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.indexing.distances import check_count, check_dim, kmeans, nearest, squared

_TURNS = 20  # of codebooks and rotation, for OPQ


@dataclass(frozen=True)
class Parts:
    """A fitted product quantizer.

    Attributes:
        rotation: (parts * part, dim) float32, orthonormal columns: what a vector is multiplied by before it is cut.
        centroids: (parts, width, part) float32.
    """

    rotation: np.ndarray
    centroids: np.ndarray

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.rotation.shape[1])

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid of every part: (items, parts) int32, and (items, parts * part) what is left.

        Raises:
            CodeError: vectors of another dimension.
        """
        check_dim(vectors, self.dim)
        cut = self._cut(vectors)
        codes = np.stack([nearest(cut[:, part], book) for part, book in enumerate(self.centroids)], axis=1)
        residual = cut - self.centroids[np.arange(len(self.centroids)), codes]
        return codes, residual.reshape(len(vectors), -1)

    def last(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances of a part to every centroid of it."""
        return squared(self._cut(vectors)[:, level], self.centroids[level])

    def arrays(self) -> dict[str, np.ndarray]:
        """Rotation and centroids."""
        return {"rotation": self.rotation, "centroids": self.centroids}

    def _cut(self, vectors: np.ndarray) -> np.ndarray:
        parts, _, part = self.centroids.shape
        return np.ascontiguousarray((vectors @ self.rotation.T).reshape(len(vectors), parts, part), np.float32)


def fit(vectors: np.ndarray, levels: int, width: int, seed: int, turned: bool) -> Parts:
    """Fit a codebook for every part.

    Args:
        vectors: (items, dim) float32.
        levels: parts; a dimension that they do not divide is padded by zeros.
        width: centroids of each.
        seed: of the k-means starts.
        turned: turn vectors so that the parts can be told with less error (OPQ).

    Raises:
        CodeError: fewer items than centroids.
    """
    check_count(len(vectors), width)
    dim, part = vectors.shape[1], -(-vectors.shape[1] // levels)
    rotation = np.eye(levels * part, dim, dtype=np.float32)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if turned:
        rotation = _turn(np.ascontiguousarray(vectors @ rotation.T), levels, width, seed) @ rotation
    cut = (vectors @ rotation.T).reshape(len(vectors), levels, part)
    books = [kmeans(np.ascontiguousarray(cut[:, n]), width, seed % 2**31 + n) for n in range(levels)]
    return Parts(rotation, np.stack(books))


def _turn(vectors: np.ndarray, levels: int, width: int, seed: int) -> np.ndarray:
    """(dim, dim) float32 orthonormal: codebooks for a rotation and the best rotation for the codebooks, in turns.

    Source: Ge et al. 2013, algorithm 1 (the rotation is an orthogonal Procrustes problem). faiss 1.15 has it for 256
    codes a part alone: setting its `OPQMatrix.pq` from Python corrupts memory.
    """
    rotation = np.eye(vectors.shape[1], dtype=np.float32)
    for _ in range(_TURNS):
        turned = vectors @ rotation.T
        parts = np.split(turned, levels, axis=1)
        books = [kmeans(np.ascontiguousarray(part), width, seed % 2**31 + n, 10) for n, part in enumerate(parts)]
        told = np.hstack([book[nearest(part, book)] for part, book in zip(parts, books, strict=True)])
        left, _, right = np.linalg.svd(told.T @ vectors)
        rotation = (left @ right).astype(np.float32)
    return rotation
