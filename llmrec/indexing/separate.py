"""Telling twins apart: items whose codes collide get different tokens on one more level."""

from __future__ import annotations

import numpy as np


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
