"""The order of rows: the same shuffle however many processes share it, and steps of one size.

Where a step is cut into parts, the last step of an epoch is filled up with empty rows. accelerate would fill it with
rows from the beginning, which would count twice and make two processes another training than one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class Order(Sampler[int]):
    """Row numbers, shuffled anew in each epoch; a number that is no row's stands for an empty row."""

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
        """Which shuffle the next iteration gives."""
        self.epoch = epoch

    def at(self, step: int) -> list[int]:
        """Numbers of the rows that a step took, steps counted from 1."""
        epoch, place = divmod(step - 1, self.steps)
        return self._shuffled(epoch)[place * self.batch : (place + 1) * self.batch]

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()


class Rows(Protocol):
    """What a step takes a batch of."""

    @property
    def empty(self) -> dict[str, Tensor]:
        """A row that counts for nothing."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Tensor]: ...


class Filled(Dataset[dict[str, Tensor]]):
    """Rows, and an empty one at every number past the last."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.rows[row] if row < len(self.rows) else self.rows.empty
