"""Items whose codes collide get different ones, on one more level or by moving on the last."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmrec.errors import CodeError
from llmrec.indexing.codes import Quantizer, groups

EPSILON, ROUNDS = 0.003, 50
_LEAST = 1e-290  # nothing is divided by less
_MOVES = 20  # rounds of moving items by Sinkhorn, as in LC-Rec


def last_level(codes: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """Append a level that numbers the items of each code 0, 1, 2, …

    Args:
        codes: (items, levels) int32, with collisions.
        priority: (items,) items of one code are numbered in its order (smallest first), then by item number.

    Returns:
        (items, levels + 1) int32, rows unique.
    """
    keys = np.lexsort((np.arange(len(codes)), priority, *codes.T[::-1]))
    ordered = codes[keys]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    starts = np.flatnonzero(first)
    number = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    separated = np.zeros(len(codes), np.int32)
    separated[keys] = number
    return np.concatenate([codes, separated[:, None]], axis=1)


def sinkhorn(codes: np.ndarray, priority: np.ndarray, vectors: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """Spread the items of each colliding group over the codes of the last level; what still collides moves on.

    Args:
        codes: (items, levels) int32, with collisions.
        priority: (items,) as for `last_level`.
        vectors: (items, dim) float32.
        quantizer: that gave the codes.

    Returns:
        (items, levels) int32, rows unique.

    Raises:
        CodeError: there are fewer codes than items.

    Source: LC-Rec, `generate_indices.py`: at most 20 rounds, each over the groups that still collide.
    """
    codes, level = codes.copy(), codes.shape[1] - 1
    for _ in range(_MOVES):
        group, size = groups(codes)
        if size.max() == 1:
            return codes
        moving = np.flatnonzero(size[group] > 1)
        moving = moving[np.argsort(group[moving], kind="stable")]
        for rows in np.split(moving, np.flatnonzero(np.diff(group[moving])) + 1):
            costs = quantizer.last(vectors[rows], codes[rows], level)
            codes[rows, level] = plan(torch.from_numpy(costs)).argmax(dim=1).numpy()
    return nearest_free(codes, priority, vectors, quantizer)


def nearest_free(
    codes: np.ndarray,
    priority: np.ndarray,
    vectors: np.ndarray,
    quantizer: Quantizer,
    taken: set[tuple[int, ...]] | None = None,
) -> np.ndarray:
    """Keep the best item of each code where it is; the others go, one after another, to the nearest free code.

    Nearest on the last level; where that is full, the level before it moves to its nearest code with room, and so on.

    Args:
        codes, priority, vectors, quantizer: as for `sinkhorn`.
        taken: codes that other items have.

    Returns:
        (items, levels) int32, rows unique and none of them taken.

    Raises:
        CodeError: no code is free.
    """
    taken, codes, stay = set(taken or ()), codes.copy(), []
    for row in np.lexsort((np.arange(len(codes)), priority)).tolist():
        code = tuple(codes[row].tolist())
        if code in taken:
            stay.append(row)
        taken.add(code)
    for row in stay:
        levels = range(codes.shape[1] - 1, -1, -1)
        options = (
            _free_below(codes[row, :level], vectors[row : row + 1], quantizer, taken, codes.shape[1])
            for level in levels
        )
        free = next((code for code in options if code is not None), None)
        if free is None:
            raise CodeError(
                f"{len(codes)} items find no free code. Widen them with indexing.width, or add a level that separates "
                "them: indexing.collisions=extra-level"
            )
        codes[row] = free
        taken.add(tuple(free.tolist()))
    return codes


def _free_below(
    prefix: np.ndarray, vector: np.ndarray, quantizer: Quantizer, taken: set[tuple[int, ...]], levels: int
) -> np.ndarray | None:
    """The nearest free code under a prefix, depth first, nearest children first; None where there is none."""
    costs = quantizer.last(vector, np.append(prefix, 0)[None], len(prefix))[0]
    for choice in np.argsort(costs, kind="stable").tolist():
        code = np.append(prefix, choice).astype(np.int32)
        if len(code) < levels:
            below = _free_below(code, vector, quantizer, taken, levels)
            if below is not None:
                return below
        elif tuple(code.tolist()) not in taken:
            return code
    return None


def plan(distances: Tensor, epsilon: float = EPSILON, rounds: int = ROUNDS) -> Tensor:
    """Entropic optimal transport between items and codes, both with even shares (Sinkhorn and Knopp).

    Args:
        distances: (items, codes); only their order of size matters, they are centred to [-1, 1].
        epsilon: how sharp; smaller is nearer to a one-to-one mapping.
        rounds: of scaling columns, then rows.

    Returns:
        (items, codes) float64; rows sum to 1, columns to items / codes when it has converged.

    Source: LC-Rec (arXiv 2311.09049), section III-B, and its `sinkhorn_algorithm`. We scale rows and columns of a
    kernel that is written once, in float64: 50 rounds of 1,024 items and 256 codes take milliseconds.
    """
    distances = distances.double()
    middle = (distances.max() + distances.min()) / 2
    spread = (distances.max() - middle + 1e-5).abs()
    table = (distances - middle) / spread / epsilon
    kernel = (table.min(dim=1, keepdim=True).values - table).exp()  # a factor a row is scaled away
    items, codes = kernel.shape
    row = torch.ones(items, dtype=torch.float64)
    for _ in range(rounds):
        column = items / codes / (row @ kernel).clamp(min=_LEAST)
        row = 1 / (kernel @ column).clamp(min=_LEAST)
    return row[:, None] * kernel * column
