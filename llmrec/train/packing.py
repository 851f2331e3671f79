"""Packing: several examples in one row, kept apart by restarting positions.

Without flash attention, transformers keeps packed examples from seeing one another only when it is given restarting
`position_ids`, no `attention_mask`, and `use_cache=False`. A test compares packed with separate rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llmrec.train.encode import Block, Encoded
from llmrec.train.feed import TokenFile, predicted

IGNORE = -100
_OPEN_ROWS = 64  # that an example may still be put into: time is linear and memory small
Change = Callable[[Encoded, int, int], Encoded]
"""An example, its number and the epoch → the example as that epoch has it."""
_FILL = {"input_ids": 0, "position_ids": 0, "labels": IGNORE}


@dataclass(frozen=True)
class Packs:
    """Which examples stand in which row.

    Attributes:
        examples: (examples,) their numbers, row by row.
        offsets: (rows + 1,) row r holds examples offsets[r] to offsets[r + 1].
    """

    examples: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> list[int]:
        return self.examples[self.offsets[row] : self.offsets[row + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        yield from (self[row] for row in range(len(self)))

    def first(self, rows: int) -> Packs:
        """The first rows alone."""
        return Packs(self.examples, self.offsets[: rows + 1])


def pack(lengths: np.ndarray, row_tokens: int, order: np.ndarray) -> Packs:
    """Put examples into rows, each into the first open row with room.

    Args:
        lengths: (examples,) tokens of each; an example longer than a row gets a row of its own.
        row_tokens: tokens a row holds.
        order: (examples,) the order to place them in.

    Returns:
        Rows of example numbers, each in the order in which they were placed.
    """
    room: deque[int] = deque(maxlen=_OPEN_ROWS)  # of the newest rows
    row_of, rows = np.empty(len(order), np.int64), 0
    for number, need in enumerate(lengths[order].tolist()):
        place = next((row for row, left in enumerate(room) if left >= need), len(room))
        if place == len(room):
            place = min(place, _OPEN_ROWS - 1)
            room.append(max(row_tokens, need))
            rows += 1
        room[place] -= need
        row_of[number] = rows - len(room) + place
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))])
    return Packs(order[np.argsort(row_of, kind="stable")], offsets)


class PackedRows(Dataset[dict[str, Tensor]]):
    """Rows of packed examples, as tensors.

    Attributes:
        examples: as they were given.
        rows: which of them stand in which row.
        tokens, supervised: how many there are in all rows, and how many of them to predict.
        changes: what every epoch makes of an example, one after another.
    """

    def __init__(
        self,
        examples: Sequence[Encoded],
        row_tokens: int | None,
        draw: np.random.Generator,
        changes: Sequence[Change] = (),
    ) -> None:
        """Pack examples, in a drawn order, into rows of so many tokens; None for those of the longest example."""
        self.examples, self.changes, self.epoch = examples, changes, 0
        lengths, counts = _sizes(examples)
        self.tokens, self.supervised = (int(column.sum(dtype=np.int64)) for column in (lengths, counts))
        self.rows = pack(lengths, row_tokens or int(lengths.max()), draw.permutation(len(examples)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """input_ids, position_ids, labels: (length,) int64; labels are the tokens to predict at their own place."""
        parts = [self.example(number, self.epoch) for number in self.rows[row]]
        tokens = np.concatenate([part.tokens for part in parts])
        labels = np.where(np.concatenate([_predictable(part) for part in parts]), tokens, IGNORE)
        places = np.concatenate([np.arange(len(part.tokens)) for part in parts])
        return {
            name: torch.from_numpy(value)
            for name, value in (("input_ids", tokens), ("position_ids", places), ("labels", labels))
        }

    def example(self, number: int, epoch: int) -> Encoded:
        """An example as an epoch has it."""
        example = self.examples[number]
        for change in self.changes:
            example = change(example, number, epoch)
        return example

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is asked for next; only `changes` hang on it."""
        self.epoch = epoch

    @property
    def empty(self) -> dict[str, Tensor]:
        """A row of one token that nothing supervises."""
        return {name: torch.full((1,), value) for name, value in _FILL.items()}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad rows on the right to one length; padding is an example of its own, one token long each, and unsupervised."""
    width = max(len(row["input_ids"]) for row in rows)
    return {
        name: torch.stack(
            [torch.nn.functional.pad(row[name], (0, width - len(row[name])), value=value) for row in rows]
        )
        for name, value in _FILL.items()
    }


def _sizes(examples: Sequence[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    """(examples,) tokens of each, and those that it must predict."""
    if isinstance(examples, TokenFile):
        return examples.lengths, examples.predicted
    block = Block.of(examples)
    return np.diff(block.offsets), predicted(block)


def _predictable(example: Encoded) -> np.ndarray:
    """The first token of an example follows nothing, so it cannot be predicted."""
    mask = example.supervised.copy()
    mask[0] = False
    return mask
