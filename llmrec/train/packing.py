"""Packing: several examples in one row, kept apart by restarting positions.

Without flash attention, transformers keeps packed examples from seeing one another only when it is given restarting
`position_ids`, no `attention_mask`, and `use_cache=False`. A test compares packed with separate rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llmrec.train.encode import Encoded

IGNORE = -100


def pack(lengths: np.ndarray, row_tokens: int, order: np.ndarray) -> list[list[int]]:
    """Put examples into rows, each into the first open row with room.

    Args:
        lengths: (examples,) tokens of each; an example longer than a row gets a row of its own.
        row_tokens: tokens a row holds.
        order: (examples,) the order to place them in.

    Returns:
        Rows of example numbers.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    open_from = 0
    for example in order.tolist():
        need = int(lengths[example])
        place = next((row for row in range(open_from, len(rows)) if room[row] >= need), None)
        if place is None:
            rows.append([])
            room.append(max(row_tokens, need))
            place = len(rows) - 1
            open_from = max(open_from, len(rows) - 64)  # look back over a bounded number of rows: linear time
        rows[place].append(example)
        room[place] -= need
    return rows


class PackedRows(Dataset[dict[str, Tensor]]):
    """Rows of packed examples, as tensors."""

    def __init__(self, examples: list[Encoded], row_tokens: int, draw: np.random.Generator) -> None:
        self.examples = examples
        self.rows = pack(np.array([len(e.tokens) for e in examples]), row_tokens, draw.permutation(len(examples)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """input_ids, position_ids, labels: (length,) int64; labels are the tokens to predict at their own place."""
        parts = [self.examples[example] for example in self.rows[row]]
        tokens = np.concatenate([part.tokens for part in parts])
        labels = np.where(np.concatenate([_predictable(part) for part in parts]), tokens, IGNORE)
        places = np.concatenate([np.arange(len(part.tokens)) for part in parts])
        return {
            name: torch.from_numpy(value)
            for name, value in (("input_ids", tokens), ("position_ids", places), ("labels", labels))
        }

    @property
    def supervised(self) -> int:
        """Supervised tokens in all rows."""
        return int(sum(_predictable(example).sum() for example in self.examples))


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad rows on the right to one length; padding is an example of its own, one token long each, and unsupervised."""
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "position_ids": 0, "labels": IGNORE}
    return {
        name: torch.stack(
            [torch.nn.functional.pad(row[name], (0, width - len(row[name])), value=value) for row in rows]
        )
        for name, value in fill.items()
    }


def _predictable(example: Encoded) -> np.ndarray:
    """The first token of an example follows nothing, so it cannot be predicted."""
    mask = example.supervised.copy()
    mask[0] = False
    return mask
