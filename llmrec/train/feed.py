"""Tokens of all examples on the disk, and what packing must know of them: memory does not grow with the examples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from llmrec.train.encode import Block, Encoded

_TOKENS, _SIZES = "tokens.bin", "sizes.npy"
_WIDTH = 4  # bytes of a token; one that is supervised stands as its complement, below zero


class TokenFile(Sequence[Encoded]):
    """Examples as `write` left them; each is read when it is asked for.

    Attributes:
        lengths: (examples,) tokens of each.
        predicted: (examples,) tokens of each that the model must predict.
    """

    def __init__(self, folder: Path) -> None:
        self.lengths, self.predicted = np.load(folder / _SIZES)
        self._ends = np.cumsum(self.lengths, dtype=np.int64)
        self._file = (folder / _TOKENS).open("rb", buffering=0)

    @staticmethod
    def write(blocks: Iterable[Block], folder: Path) -> None:
        """Write examples into a folder, a block after the other."""
        sizes = [np.zeros((2, 0), np.int32)]
        with (folder / _TOKENS).open("wb") as file:
            for block in blocks:
                np.where(block.supervised, ~block.tokens, block.tokens).astype(np.int32).tofile(file)
                sizes.append(np.stack([np.diff(block.offsets), predicted(block)]).astype(np.int32))
        np.save(folder / _SIZES, np.concatenate(sizes, axis=1))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, number: int) -> Encoded: ...
    @overload
    def __getitem__(self, number: slice) -> list[Encoded]: ...
    def __getitem__(self, number: int | slice) -> Encoded | list[Encoded]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        size, end = int(self.lengths[number]), int(self._ends[number])
        read = os.pread(self._file.fileno(), size * _WIDTH, (end - size) * _WIDTH)
        held = np.frombuffer(read, np.int32).astype(np.int64)
        return Encoded(np.where(held < 0, ~held, held), held < 0)

    def __iter__(self) -> Iterator[Encoded]:
        yield from (self[number] for number in range(len(self)))


def predicted(block: Block) -> np.ndarray:
    """(examples,) tokens that the model must predict: the first of an example follows nothing, so it is not one."""
    counted = block.supervised.copy()
    counted[block.offsets[:-1]] = False
    before = np.concatenate([[0], np.cumsum(counted)])
    return before[block.offsets[1:]] - before[block.offsets[:-1]]
