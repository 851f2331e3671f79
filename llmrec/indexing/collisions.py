"""Resolve collisions: items with the same code get different ones, by one more level or by reassignment."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmrec.errors import CodeError
from llmrec.indexing.codes import Quantizer, group_equal

EPSILON, ROUNDS = 0.003, 50
_MIN_SUM = 1e-290  # smallest divisor
_MAX_MOVES = 20  # rounds of reassignment by Sinkhorn, as in LC-Rec


def add_level(codes: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """Append a level that numbers the items of each code 0, 1, 2, …

    Args:
        codes: (items, levels) int32, with collisions.
        priority: (items,) order among items with the same code, smallest first; ties by item number.

    Returns:
        (items, levels + 1) int32, rows unique.
    """
    order = np.lexsort((np.arange(len(codes)), priority, *codes.T[::-1]))
    ordered = codes[order]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    starts = np.flatnonzero(first)
    number = np.zeros(len(codes), np.int32)
    number[order] = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    return np.concatenate([codes, number[:, None]], axis=1)


def sinkhorn(codes: np.ndarray, priority: np.ndarray, vectors: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """Spread the items of each colliding group over the codes of the last level; `reassign` what still collides.

    Source: LC-Rec, `generate_indices.py`: at most 20 rounds, each over the groups that still collide.
    """
    codes, level = codes.copy(), codes.shape[1] - 1
    for _ in range(_MAX_MOVES):
        group, size = group_equal(codes)
        if size.max() == 1:
            return codes
        colliding = np.flatnonzero(size[group] > 1)
        colliding = colliding[np.argsort(group[colliding], kind="stable")]
        for rows in np.split(colliding, np.flatnonzero(np.diff(group[colliding])) + 1):
            distances = quantizer.level_distances(vectors[rows], codes[rows], level)
            codes[rows, level] = transport_plan(torch.from_numpy(distances)).argmax(dim=1).numpy()
    return reassign(codes, priority, vectors, quantizer)


def reassign(
    codes: np.ndarray,
    priority: np.ndarray,
    vectors: np.ndarray,
    quantizer: Quantizer,
    taken: set[tuple[int, ...]] | None = None,
) -> np.ndarray:
    """Keep the best item of each code; move the others, one after another, to the nearest free code.

    Nearest on the last level; if all codes there are taken, the level before moves to its nearest code with room, etc.

    Args:
        codes: (items, levels) int32, with collisions.
        priority: (items,) as for `add_level`.
        vectors: (items, dim) float32.
        quantizer: that assigned the codes.
        taken: codes of other items.

    Returns:
        (items, levels) int32, rows unique and none of them taken.

    Raises:
        CodeError: no code is free.
    """
    taken, codes, moving = set(taken or ()), codes.copy(), []
    for row in np.lexsort((np.arange(len(codes)), priority)).tolist():
        code = tuple(codes[row].tolist())
        if code in taken:
            moving.append(row)
        taken.add(code)
    for row in moving:
        levels = range(codes.shape[1] - 1, -1, -1)
        candidates = (
            _nearest_free(codes[row, :level], vectors[row : row + 1], quantizer, taken, codes.shape[1])
            for level in levels
        )
        free = next((code for code in candidates if code is not None), None)
        if free is None:
            raise CodeError(
                f"{len(codes)} items find no free code. Widen them with indexing.width, or add a level that separates "
                "them: indexing.collisions=extra-level"
            )
        codes[row] = free
        taken.add(tuple(free.tolist()))
    return codes


def _nearest_free(
    prefix: np.ndarray, vector: np.ndarray, quantizer: Quantizer, taken: set[tuple[int, ...]], levels: int
) -> np.ndarray | None:
    """The first free code under a prefix, depth first, nearest children first; None if there is none."""
    distances = quantizer.level_distances(vector, np.append(prefix, 0)[None], len(prefix))[0]
    for choice in np.argsort(distances, kind="stable").tolist():
        code = np.append(prefix, choice).astype(np.int32)
        if len(code) < levels:
            below = _nearest_free(code, vector, quantizer, taken, levels)
            if below is not None:
                return below
        elif tuple(code.tolist()) not in taken:
            return code
    return None


def transport_plan(distances: Tensor, epsilon: float = EPSILON, rounds: int = ROUNDS) -> Tensor:
    """Entropic optimal transport between items and codes with uniform marginals (Sinkhorn and Knopp).

    Args:
        distances: (items, codes); they are centred and scaled to [-1, 1].
        epsilon: regularization; smaller is nearer to a one-to-one mapping.
        rounds: of scaling columns, then rows.

    Returns:
        (items, codes) float64; rows sum to 1, columns to items / codes once it has converged.

    Source: LC-Rec (arXiv 2311.09049), section III-B, and its `sinkhorn_algorithm`. We scale rows and columns of a
    kernel that is computed once, in float64: 50 rounds of 1,024 items and 256 codes take milliseconds.
    """
    distances = distances.double()
    middle = (distances.max() + distances.min()) / 2
    spread = (distances.max() - middle + 1e-5).abs()
    table = (distances - middle) / spread / epsilon
    kernel = (table.min(dim=1, keepdim=True).values - table).exp()  # one factor a row is cancelled by the scaling
    items, codes = kernel.shape
    row = torch.ones(items, dtype=torch.float64)
    for _ in range(rounds):
        column = items / codes / (row @ kernel).clamp(min=_MIN_SUM)
        row = 1 / (kernel @ column).clamp(min=_MIN_SUM)
    return row[:, None] * kernel * column
