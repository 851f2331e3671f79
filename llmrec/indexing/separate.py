"""Telling twins apart: items whose codes collide get different ones, on one more level or by moving on the last."""

from __future__ import annotations

import numpy as np

from llmrec.errors import CodeError
from llmrec.indexing.codes import Quantizer, groups

_ROUNDS = 20  # of moving by Sinkhorn, as in LC-Rec


def last_level(codes: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Append a level that numbers the items of each code 0, 1, 2, …

    Args:
        codes: (items, levels) int32, with collisions.
        rank: (items,) a number an item; twins are numbered in its order (smallest first), then by item number.

    Returns:
        (items, levels + 1) int32, rows unique.
    """
    keys = np.lexsort((np.arange(len(codes)), rank, *codes.T[::-1]))
    ordered = codes[keys]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    starts = np.flatnonzero(first)
    number = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    separated = np.zeros(len(codes), np.int32)
    separated[keys] = number
    return np.concatenate([codes, separated[:, None]], axis=1)


def sinkhorn(codes: np.ndarray, rank: np.ndarray, vectors: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """Spread the items of each colliding group over the codes of the last level; what still collides moves on.

    Args:
        codes: (items, levels) int32, with collisions.
        rank: (items,) as for `last_level`.
        vectors: (items, dim) float32.
        quantizer: that gave the codes.

    Returns:
        (items, levels) int32, rows unique.

    Raises:
        CodeError: there are fewer codes than items.

    Source: LC-Rec, `generate_indices.py`: at most 20 rounds, each over the groups that still collide.
    """
    import torch

    from llmrec.indexing.sinkhorn import plan

    codes, level = codes.copy(), codes.shape[1] - 1
    for _ in range(_ROUNDS):
        group, size = groups(codes)
        if size.max() == 1:
            return codes
        moving = np.flatnonzero(size[group] > 1)
        moving = moving[np.argsort(group[moving], kind="stable")]
        for rows in np.split(moving, np.flatnonzero(np.diff(group[moving])) + 1):
            costs = quantizer.last(vectors[rows], codes[rows], level)
            codes[rows, level] = plan(torch.from_numpy(costs)).argmax(dim=1).numpy()
    return nearest_free(codes, rank, vectors, quantizer)


def nearest_free(
    codes: np.ndarray,
    rank: np.ndarray,
    vectors: np.ndarray,
    quantizer: Quantizer,
    taken: set[tuple[int, ...]] | None = None,
) -> np.ndarray:
    """Keep the best item of each code where it is; the others go, one after another, to the nearest free code.

    Nearest on the last level; where that is full, the level before it moves to its nearest code with room, and so on.

    Args:
        codes, rank, vectors, quantizer: as for `sinkhorn`.
        taken: codes that other items have.

    Returns:
        (items, levels) int32, rows unique and none of them taken.

    Raises:
        CodeError: no code is free.
    """
    taken, codes, stay = set(taken or ()), codes.copy(), []
    for row in np.lexsort((np.arange(len(codes)), rank)).tolist():
        code = tuple(codes[row].tolist())
        if code in taken:
            stay.append(row)
        taken.add(code)
    for row in stay:
        free = _free(codes[row], vectors[row : row + 1], quantizer, taken, codes.shape[1] - 1)
        if free is None:
            raise CodeError(
                f"{len(codes)} items find no free code. Widen them with indexing.width, or add a level that separates "
                "them: indexing.separate=last-level"
            )
        codes[row] = free
        taken.add(tuple(free.tolist()))
    return codes


def _free(
    code: np.ndarray, vector: np.ndarray, quantizer: Quantizer, taken: set[tuple[int, ...]], level: int
) -> np.ndarray | None:
    """The nearest free code that differs from `code` on this level or, failing that, on one before it."""
    for first in range(level, -1, -1):
        found = _below(code[:first], vector, quantizer, taken, level)
        if found is not None:
            return found
    return None


def _below(
    prefix: np.ndarray, vector: np.ndarray, quantizer: Quantizer, taken: set[tuple[int, ...]], level: int
) -> np.ndarray | None:
    """The nearest free code under a prefix, depth first, nearest children first."""
    costs = quantizer.last(vector, np.append(prefix, 0)[None], len(prefix))[0]
    for choice in np.argsort(costs, kind="stable").tolist():
        code = np.append(prefix, choice).astype(np.int32)
        if len(prefix) == level:
            if tuple(code.tolist()) not in taken:
                return code
        else:
            found = _below(code, vector, quantizer, taken, level)
            if found is not None:
                return found
    return None
