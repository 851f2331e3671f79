"""What a method of indexing gives back: numbers level by level, and which of them share tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Ends = Literal["separating", "own", "moved", "numbers"]


class Quantizer(Protocol):
    """A fitted map from vectors to codes, frozen."""

    @property
    def dim(self) -> int:
        """Numbers of a vector that it codes."""
        ...

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(items, levels) int32 codes of (items, dim) float32 vectors, and (items, …) what they leave unexplained.

        Raises:
            CodeError: vectors of another dimension.
        """
        ...

    def last(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances to every code of a level, the levels before being as in `codes`."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """What `quantizers.load` makes it from again."""
        return dict(vars(self))


@dataclass(frozen=True)
class RawCodes:
    """Codes as a method assigns them, before items of the same code are told apart.

    Attributes:
        codes: (items, columns) int32; -1 where a shorter code has nothing.
        kinds: (columns,) the kind of token of each column; columns of one kind share their tokens.
        widths: tokens of each kind.
        priority: (items,) items of one code are numbered in its order, smallest first.
        ends: separating: codes may collide, and get a level that tells them apart; own: the last column is a token of
            the item's own; numbers: all are different already.
        quantizer: what gives new items their codes; None where there is none.
        words: kind → what each of its tokens stands for, for people.
        facts: for made.json.
    """

    codes: np.ndarray
    kinds: list[int]
    widths: list[int]
    priority: np.ndarray
    ends: Ends = "separating"
    quantizer: Quantizer | None = None
    words: dict[int, list[str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def levels(cls, codes: np.ndarray, widths: Sequence[int], priority: np.ndarray, **more: Any) -> RawCodes:
        """Codes in which every column has tokens of its own."""
        return cls(codes.astype(np.int32), list(range(codes.shape[1])), list(widths), priority, **more)


def symbols(codes: np.ndarray, kinds: Sequence[int], widths: Sequence[int]) -> np.ndarray:
    """Numbers level by level to symbols of the catalogue, gaps closed.

    Args:
        codes: (items, columns) int, -1 for nothing.
        kinds: (columns,) kind of each column.
        widths: tokens of each kind; the symbols of a kind follow those of the kind before.

    Returns:
        (items, longest) int32, padded at the end by -1.
    """
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int32)
    table = np.where(codes >= 0, codes + starts[list(kinds)], -1).astype(np.int32)
    return table if (codes >= 0).all() else squeeze(table)


def squeeze(table: np.ndarray) -> np.ndarray:
    """(rows, longest) the entries of each row that are not -1, moved to its front."""
    order = np.argsort(table < 0, axis=1, kind="stable")
    longest = int((table >= 0).sum(axis=1).max(initial=1))
    return np.take_along_axis(table, order, axis=1)[:, :longest]


def without_suffix(codes: np.ndarray, widths: Sequence[int], ends: Ends) -> np.ndarray:
    """(items, longest) symbols without the token that tells items of one code apart; -1 in its place."""
    return codes if ends in ("moved", "numbers") else np.where(codes < sum(widths[:-1]), codes, -1)


def groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(items,) int64 the group of each item among items of the same code, and (groups,) how many each has."""
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return group.ravel(), size
