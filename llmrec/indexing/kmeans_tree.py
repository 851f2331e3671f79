"""A tree of balanced k-means: every level splits every node into equal shares; a path is a code.

Source: ColaRec (Wang et al. 2024), constrained k-means over a teacher's vectors. The last token of a code, which there
comes from one more split into single items, is our separating level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.indexing.balanced import balanced_kmeans
from llmrec.indexing.distances import check_count, check_dim, nearest, squared


@dataclass(frozen=True)
class Tree:
    """A fitted tree.

    Attributes:
        paths: (nodes, levels) int32 the path to each node but the root, padded by -1; shorter paths first.
        centroids: (nodes, dim) float32.
        width: children of a node at most.
    """

    paths: np.ndarray
    centroids: np.ndarray
    width: int

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.centroids.shape[1])

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the root down, to the nearest child: (items, levels) int32, and (items, dim) from the last node.

        Raises:
            CodeError: vectors of another dimension.
        """
        check_dim(vectors, self.dim)
        levels = self.paths.shape[1]
        codes, at = np.full((len(vectors), levels), -1, np.int32), np.zeros(len(vectors), np.int64)
        depth = (self.paths >= 0).sum(axis=1)
        for level in range(levels):
            nodes = np.flatnonzero(depth == level + 1)
            for parent in np.unique(codes[:, :level], axis=0):
                rows = np.flatnonzero((codes[:, :level] == parent).all(axis=1))
                here = nodes[(self.paths[nodes, :level] == parent).all(axis=1)]
                at[rows] = here[nearest(vectors[rows], self.centroids[here])]
                codes[rows, level] = self.paths[at[rows], level]
        return codes, vectors - self.centroids[at]

    def last(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances to the children of each item's node; those it lacks are farthest."""
        found = np.full((len(vectors), self.width), -1, np.float32)
        depth = (self.paths >= 0).sum(axis=1)
        for parent in np.unique(codes[:, :level], axis=0):
            rows = np.flatnonzero((codes[:, :level] == parent).all(axis=1))
            here = np.flatnonzero((depth == level + 1) & (self.paths[:, :level] == parent).all(axis=1))
            found[np.ix_(rows, self.paths[here, level])] = squared(vectors[rows], self.centroids[here])
        return np.where(found < 0, 1 + 2 * found.max(axis=1, keepdims=True, initial=0), found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Paths and centroids."""
        return {"paths": self.paths, "centroids": self.centroids, "width": np.array(self.width)}


def fit(vectors: np.ndarray, levels: int, width: int, seed: int) -> tuple[Tree, np.ndarray, np.ndarray]:
    """Split `levels` times into `width` equal shares; a node of fewer items gives each a child.

    Args:
        vectors: (items, dim) float32.
        levels, width: of the tree.
        seed: of the k-means starts.

    Returns:
        The tree, (items, levels) int32 codes, and (items, dim) float32, each item less the centroid of its last node.

    Raises:
        CodeError: fewer items than children of the root.
    """
    check_count(len(vectors), width)
    vectors = np.ascontiguousarray(vectors, np.float32)
    codes = np.full((len(vectors), levels), -1, np.int32)
    paths, centroids = [], []
    residual = vectors.copy()
    for level in range(levels):
        for number, parent in enumerate(np.unique(codes[:, :level], axis=0)):
            rows = np.flatnonzero((codes[:, :level] == parent).all(axis=1))
            means, codes[rows, level] = _split(
                vectors[rows], min(width, len(rows)), seed % 2**31 + 1000 * level + number
            )
            residual[rows] = vectors[rows] - means[codes[rows, level]]
            for child, mean in enumerate(means):
                paths.append([*parent, child, *[-1] * (levels - level - 1)])
                centroids.append(mean)
    return Tree(np.array(paths, np.int32), np.array(centroids, np.float32), width), codes, residual


def _split(vectors: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if parts == len(vectors):
        return vectors, np.arange(parts, dtype=np.int32)
    return balanced_kmeans(vectors, parts, seed)
