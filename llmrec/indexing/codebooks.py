"""Quantizers made of k-means: residual codebooks, product codebooks, and a tree of clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmrec.indexing.codes import Quantizer
from llmrec.indexing.kmeans import balanced_kmeans, check_count, check_dim, kmeans, nearest, squared_distances

_ROTATIONS = 20  # alternations of codebooks and rotation, for OPQ


@dataclass(frozen=True)
class Codebooks(Quantizer):
    """A residual quantizer, `centroids`: (levels, width, dim) float32."""

    centroids: np.ndarray

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid at each level, greedily: (items, levels) int32, and (items, dim) residuals."""
        check_dim(vectors, self.dim)
        residual = vectors.astype(np.float32).copy()
        codes = np.zeros((len(vectors), len(self.centroids)), np.int32)
        for level, book in enumerate(self.centroids):
            codes[:, level] = nearest(residual, book)
            residual -= book[codes[:, level]]
        return codes, residual

    def level_distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances of the residuals before a level to its centroids."""
        residual = vectors.astype(np.float32).copy()
        for before in range(level):
            residual -= self.centroids[before][codes[:, before]]
        return squared_distances(residual, self.centroids[level])


def residual_kmeans(
    vectors: np.ndarray, levels: int, width: int, seed: int, balanced: bool = False
) -> tuple[Codebooks, np.ndarray, np.ndarray]:
    """Residual k-means: at each level, k-means over the residuals of the levels before.

    Args:
        vectors: (items, dim) float32, finite.
        levels, width: number of codebooks, and centroids of each.
        seed: of the k-means starts.
        balanced: limit each code of a level to ceil(items / width) items; `encode` has no such limit.

    Returns:
        The codebooks, (items, levels) int32 codes, and (items, dim) float32 residuals.

    Raises:
        CodeError: fewer items than centroids.

    Source: GRID (arXiv 2507.22224) and OpenOneRec use it in place of RQ-VAE; Babenko and Lempitsky 2014 for residual
    quantization; balanced as in GREAM.
    """
    check_count(len(vectors), width)
    residual = np.ascontiguousarray(vectors, np.float32).copy()
    books, codes = [], np.zeros((len(vectors), levels), np.int32)
    for level in range(levels):
        if balanced:
            book, codes[:, level] = balanced_kmeans(residual, width, seed % 2**31 + level)
        else:
            book = kmeans(residual, width, seed % 2**31 + level)
            codes[:, level] = nearest(residual, book)
        residual -= book[codes[:, level]]
        books.append(book)
    return Codebooks(np.stack(books)), codes, residual


@dataclass(frozen=True)
class ProductQuantizer(Quantizer):
    """A product quantizer: a vector is rotated and split into parts, each with its own codebook.

    Attributes:
        rotation: (parts * part, dim) float32, orthonormal columns.
        centroids: (parts, width, part) float32.
    """

    rotation: np.ndarray
    centroids: np.ndarray

    @property
    def dim(self) -> int:
        """See `Quantizer`."""
        return int(self.rotation.shape[1])

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid of every part: (items, parts) int32, and (items, parts * part) residuals."""
        check_dim(vectors, self.dim)
        parts = self._split(vectors)
        codes = np.stack([nearest(parts[:, n], book) for n, book in enumerate(self.centroids)], axis=1)
        residual = parts - self.centroids[np.arange(len(self.centroids)), codes]
        return codes, residual.reshape(len(vectors), -1)

    def level_distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances of a part to its centroids."""
        return squared_distances(self._split(vectors)[:, level], self.centroids[level])

    def _split(self, vectors: np.ndarray) -> np.ndarray:
        parts, _, part = self.centroids.shape
        return np.ascontiguousarray((vectors @ self.rotation.T).reshape(len(vectors), parts, part), np.float32)


def product_quantizer(vectors: np.ndarray, levels: int, width: int, seed: int, rotate: bool) -> ProductQuantizer:
    """Fit a codebook for every part of the vectors.

    Args:
        vectors: (items, dim) float32.
        levels, width: number of parts, and centroids of each; the dimension is padded to a multiple of the parts.
        seed: of the k-means starts.
        rotate: learn a rotation that lowers the quantization error (OPQ).

    Raises:
        CodeError: fewer items than centroids.

    Source: Jégou et al. 2011 (PQ); Ge et al. 2013 (OPQ).
    """
    check_count(len(vectors), width)
    dim, part = vectors.shape[1], -(-vectors.shape[1] // levels)
    rotation = np.eye(levels * part, dim, dtype=np.float32)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if rotate:
        rotation = _fit_rotation(np.ascontiguousarray(vectors @ rotation.T), levels, width, seed) @ rotation
    parts = (vectors @ rotation.T).reshape(len(vectors), levels, part)
    books = [kmeans(np.ascontiguousarray(parts[:, n]), width, seed % 2**31 + n) for n in range(levels)]
    return ProductQuantizer(rotation, np.stack(books))


def _fit_rotation(vectors: np.ndarray, levels: int, width: int, seed: int) -> np.ndarray:
    """(dim, dim) float32 orthonormal matrix, fitted in alternation with the codebooks.

    Source: Ge et al. 2013, algorithm 1 (the rotation is an orthogonal Procrustes problem). faiss 1.15 has it for 256
    codes a part alone: setting its `OPQMatrix.pq` from Python corrupts memory.
    """
    rotation = np.eye(vectors.shape[1], dtype=np.float32)
    for _ in range(_ROTATIONS):
        parts = np.split(vectors @ rotation.T, levels, axis=1)
        books = [kmeans(np.ascontiguousarray(part), width, seed % 2**31 + n, 10) for n, part in enumerate(parts)]
        quantized = np.hstack([book[nearest(part, book)] for part, book in zip(parts, books, strict=True)])
        left, _, right = np.linalg.svd(quantized.T @ vectors)
        rotation = (left @ right).astype(np.float32)
    return rotation


@dataclass(frozen=True)
class Tree(Quantizer):
    """A tree of clusters; the code of an item is its path.

    Attributes:
        paths: (nodes, levels) int32 path to each node except the root, padded by -1; shorter paths first.
        centroids: (nodes, dim) float32.
        width: maximum children of a node.
    """

    paths: np.ndarray
    centroids: np.ndarray
    width: int

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Descend to the nearest child at each level: (items, levels) int32, and (items, dim) residuals."""
        check_dim(vectors, self.dim)
        codes = np.full((len(vectors), self.paths.shape[1]), -1, np.int32)
        node = np.zeros(len(vectors), np.int64)
        for level in range(codes.shape[1]):
            for rows, children in self._families(codes, level):
                node[rows] = children[nearest(vectors[rows], self.centroids[children])]
                codes[rows, level] = self.paths[node[rows], level]
        return codes, vectors - self.centroids[node]

    def level_distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances to the children of each item's node; missing ones are farthest."""
        table = np.full((len(vectors), self.width), -1, np.float32)
        for rows, children in self._families(codes, level):
            distances = squared_distances(vectors[rows], self.centroids[children])
            table[np.ix_(rows, self.paths[children, level])] = distances
        return np.where(table < 0, 1 + 2 * table.max(axis=1, keepdims=True, initial=0), table)

    def _families(self, codes: np.ndarray, level: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each node of a level with items: the rows of the items, and the node's children."""
        nodes = np.flatnonzero((self.paths >= 0).sum(axis=1) == level + 1)
        for parent, rows in _by_parent(codes, level):
            yield rows, nodes[(self.paths[nodes, :level] == parent).all(axis=1)]


def _by_parent(codes: np.ndarray, level: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each distinct prefix of `level` codes, and the rows that have it."""
    for parent in np.unique(codes[:, :level], axis=0):
        yield parent, np.flatnonzero((codes[:, :level] == parent).all(axis=1))


def kmeans_tree(vectors: np.ndarray, levels: int, width: int, seed: int) -> tuple[Tree, np.ndarray, np.ndarray]:
    """Split the items `levels` times into `width` equal clusters by balanced k-means; small nodes get a child per item.

    Returns:
        The tree, (items, levels) int32 codes, and (items, dim) float32 residuals from the centroid of the last node.

    Raises:
        CodeError: fewer items than children of the root.

    Source: ColaRec (Wang et al. 2024), constrained k-means over item vectors of a collaborative model. There the last
    token comes from one more split into single items; here it is the deduplication level.
    """
    check_count(len(vectors), width)
    vectors = np.ascontiguousarray(vectors, np.float32)
    codes = np.full((len(vectors), levels), -1, np.int32)
    paths, centroids = [], []
    residual = vectors.copy()
    for level in range(levels):
        for number, (parent, rows) in enumerate(_by_parent(codes, level)):
            if len(rows) <= width:
                means, codes[rows, level] = vectors[rows], np.arange(len(rows))
            else:
                means, codes[rows, level] = balanced_kmeans(vectors[rows], width, seed % 2**31 + 1000 * level + number)
            residual[rows] = vectors[rows] - means[codes[rows, level]]
            paths += [[*parent, child, *[-1] * (levels - level - 1)] for child in range(len(means))]
            centroids += list(means)
    return Tree(np.array(paths, np.int32), np.array(centroids, np.float32), width), codes, residual
