"""Packing: several examples per row, separated by restarting positions; and the order of rows.

Without flash attention, transformers separates packed examples only if it gets restarting `position_ids`, no
`attention_mask` and `use_cache=False`. A test compares packed with separate rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from llmrec.contracts import Sequences
from llmrec.train.encode import Block, Encoded, TokenFile

IGNORE = -100
_OPEN_ROWS = 64  # rows that an example may still be added to
Augment = Callable[[Encoded, int, int], Encoded]
"""(example, its number, epoch) → the example of that epoch."""
_FILL = {"input_ids": 0, "position_ids": 0, "labels": IGNORE}


def pack(lengths: np.ndarray, pack_length: int, order: np.ndarray) -> Sequences:
    """First-fit packing of examples into rows.

    Args:
        lengths: (examples,) tokens of each; an example longer than a row gets its own row.
        pack_length: tokens of a row.
        order: (examples,) order in which they are placed.

    Returns:
        The numbers of the examples in each row.
    """
    room: deque[int] = deque(maxlen=_OPEN_ROWS)  # left in the newest rows
    row_of, rows = np.empty(len(order), np.int64), 0
    for number, need in enumerate(lengths[order].tolist()):
        place = next((row for row, left in enumerate(room) if left >= need), len(room))
        if place == len(room):
            place = min(place, _OPEN_ROWS - 1)
            room.append(max(pack_length, need))
            rows += 1
        room[place] -= need
        row_of[number] = rows - len(room) + place
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))])
    return Sequences(offsets, order[np.argsort(row_of, kind="stable")])


class PackedRows(Dataset[dict[str, Tensor]]):
    """Rows of packed examples, as tensors.

    Attributes:
        rows: numbers of the examples in each row.
        tokens, supervised: total number of tokens, and of those to predict.
    """

    def __init__(
        self,
        examples: Sequence[Encoded],
        pack_length: int | None,
        random: np.random.Generator,
        augment: Sequence[Augment] = (),
    ) -> None:
        """Pack examples in random order.

        Args:
            pack_length: tokens of a row; None for those of the longest example.
            random: of the order.
            augment: applied one after another to each example when it is read.
        """
        self.examples, self.augment, self.epoch = examples, augment, 0
        if isinstance(examples, TokenFile):
            lengths, predicted = examples.lengths, examples.predicted
        else:
            block = Block.of(examples)
            lengths, predicted = np.diff(block.offsets), block.predicted
        self.tokens, self.supervised = (int(column.sum(dtype=np.int64)) for column in (lengths, predicted))
        self.rows = pack(lengths, pack_length or int(lengths.max()), random.permutation(len(examples)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """input_ids, position_ids, labels: (length,) int64; labels are the tokens to predict at their own place."""
        parts = [self.example(number, self.epoch) for number in self.rows[row].tolist()]
        tokens, predicted = (np.concatenate([getattr(p, name) for p in parts]) for name in ("tokens", "supervised"))
        positions = np.concatenate([np.arange(len(part.tokens)) for part in parts])
        predicted &= positions > 0  # the first token of an example follows nothing
        columns = {"input_ids": tokens, "position_ids": positions, "labels": np.where(predicted, tokens, IGNORE)}
        return {name: torch.from_numpy(value) for name, value in columns.items()}

    def example(self, number: int, epoch: int) -> Encoded:
        """An example with the augmentations of an epoch."""
        example = self.examples[number]
        for augment in self.augment:
            example = augment(example, number, epoch)
        return example

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the augmentations."""
        self.epoch = epoch

    @property
    def empty(self) -> dict[str, Tensor]:
        """A row of one token that is not supervised."""
        return {name: torch.full((1,), value) for name, value in _FILL.items()}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad rows on the right to one length; each padding token is an unsupervised example of its own."""
    width = max(len(row["input_ids"]) for row in rows)
    pad = torch.nn.functional.pad
    return {
        name: torch.stack([pad(row[name], (0, width - len(row[name])), value=fill) for row in rows])
        for name, fill in _FILL.items()
    }


class Order(Sampler[int]):
    """Row numbers, shuffled in each epoch, the same for any number of processes.

    If a step is cut into parts, the last step of an epoch is filled with numbers past the last row, which stand for
    empty rows. accelerate would fill it with rows from the beginning; these would count twice, and two processes would
    train differently from one.
    """

    def __init__(self, rows: int, batch: int, seed: int, parts: int = 1) -> None:
        """Shuffle `rows` into steps of `batch`, each cut into `parts` of equal size."""
        self.rows, self.batch, self.seed, self.epoch = rows, batch, seed, 0
        self.steps = -(-rows // batch)
        self.length = rows if parts == 1 else self.steps * batch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        yield from self._shuffled(self.epoch)
        yield from range(self.rows, self.length)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def at(self, step: int) -> list[int]:
        """Numbers of the rows of a step, steps counted from 1."""
        epoch, index = divmod(step - 1, self.steps)
        return self._shuffled(epoch)[index * self.batch : (index + 1) * self.batch]

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()


class Rows(Protocol):
    """Training data; `empty` is a row without supervised tokens."""

    @property
    def empty(self) -> dict[str, Tensor]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Tensor]: ...


class Filled(Dataset[dict[str, Tensor]]):
    """Rows, and an empty row for every number past the last."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.rows[row] if row < len(self.rows) else self.rows.empty
