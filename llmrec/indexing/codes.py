"""Codes as an indexing method assigns them, and their translation to symbols of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Suffix = Literal["dedup", "per-item", "reassigned", "none"]


class Quantizer(Protocol):
    """A fitted quantizer: maps vectors to codes."""

    @property
    def dim(self) -> int:
        """Dimension of the vectors that it encodes."""
        return int(self.arrays()["centroids"].shape[-1])

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode (items, dim) float32 vectors: (items, levels) int32 codes, and the (items, …) residuals.

        Raises:
            CodeError: vectors of another dimension.
        """
        ...

    def level_distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances to every code of a level, given `codes` on the levels before."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays that `quantizers.load` restores the quantizer from."""
        return dict(vars(self))


@dataclass(frozen=True)
class RawCodes:
    """Codes as a method assigns them, before collisions are resolved.

    Attributes:
        codes: (items, columns) int32; -1 where a shorter code has no entry.
        token_groups: (columns,) the token group of each column; columns of one group share their tokens.
        widths: tokens of each group.
        priority: (items,) order among items with the same code, smallest first.
        suffix: dedup: codes may collide and get a deduplication level; per-item: the last column is one token per
            item; none: all codes are different.
        quantizer: encodes new items; None if the method has none.
        words: token group → the word that each of its tokens stands for.
        facts: for made.json.
    """

    codes: np.ndarray
    token_groups: list[int]
    widths: list[int]
    priority: np.ndarray
    suffix: Suffix = "dedup"
    quantizer: Quantizer | None = None
    words: dict[int, list[str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def per_level(cls, codes: np.ndarray, widths: Sequence[int], priority: np.ndarray, **more: Any) -> RawCodes:
        """Codes in which every column has its own token group."""
        return cls(codes.astype(np.int32), list(range(codes.shape[1])), list(widths), priority, **more)

    def symbols(self) -> np.ndarray:
        """The codes as symbols, see `to_symbols`."""
        return to_symbols(self.codes, self.token_groups, self.widths)


def to_symbols(codes: np.ndarray, token_groups: Sequence[int], widths: Sequence[int]) -> np.ndarray:
    """Translate codes to symbols of the catalogue, without gaps.

    Args:
        codes: (items, columns) int, -1 for no entry.
        token_groups: (columns,) token group of each column.
        widths: tokens of each group; the symbols of a group follow those of the group before.

    Returns:
        (items, longest) int32, padded at the end by -1.
    """
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int32)
    table = np.where(codes >= 0, codes + starts[list(token_groups)], -1).astype(np.int32)
    return table if (codes >= 0).all() else left_align(table)


def left_align(table: np.ndarray) -> np.ndarray:
    """(rows, longest) the entries of each row that are not -1, moved to its front."""
    order = np.argsort(table < 0, axis=1, kind="stable")
    longest = int((table >= 0).sum(axis=1).max(initial=1))
    return np.take_along_axis(table, order, axis=1)[:, :longest]


def without_suffix(codes: np.ndarray, widths: Sequence[int], suffix: Suffix) -> np.ndarray:
    """(items, longest) symbols; the deduplication or per-item token is replaced by -1."""
    return codes if suffix in ("reassigned", "none") else np.where(codes < sum(widths[:-1]), codes, -1)


def group_equal(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group items by equal codes: (items,) int64 group of each item, and (groups,) sizes."""
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return group.ravel(), size
