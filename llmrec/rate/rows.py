"""Histories as rows of tokens for fine-tuning: each item, then its rating, which is predicted from what precedes it.

A row is a header and lines `TITLE (KINDS): RATING`. The token before a rating is where it is read off, so one row
supervises all ratings of a history. Pieces are tokenized alone and put together, so that training and prediction see
the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llmrec.rate.cases import Cases
from llmrec.rate.prompts import item
from llmrec.rate.ratings import Ratings
from llmrec.seed import stream
from llmrec.train.encode import Encoded
from llmrec.train.packing import IGNORE, PackedRows

_ITEM_TOKENS = 32  # of a line before its rating


@dataclass(frozen=True)
class Row(Encoded):
    """Tokens of a history; supervised are those at which a rating is read off: the token before it.

    Attributes:
        events: (ratings,) int64 the event of each rating that is read off.
    """

    events: np.ndarray

    @property
    def reads(self) -> np.ndarray:
        """(ratings,) int64 places at which a rating is read off."""
        return np.flatnonzero(self.supervised)

    @property
    def labels(self) -> np.ndarray:
        """(length,) int64 event whose rating is read off at each place; IGNORE at others."""
        found = np.full(len(self.tokens), IGNORE)
        found[self.supervised] = self.events
        return found


class PackedHistories(PackedRows):
    """Several histories in a row; their labels are numbers of events."""

    def __init__(self, rows: list[Row], row_tokens: int, seed: int) -> None:
        """Pack histories, in a drawn order, into rows of so many tokens."""
        super().__init__(rows, row_tokens, stream(seed, "rate", "pack"))
        self.labels = [row.labels for row in rows]

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """input_ids, position_ids, labels: (length,) int64."""
        labels = np.concatenate([self.labels[number] for number in self.rows[row]])
        return super().__getitem__(row) | {"labels": torch.from_numpy(labels)}


class Rows:
    """Makes rows of one data set for one tokenizer."""

    def __init__(self, ratings: Ratings, tokenizer: PreTrainedTokenizerBase) -> None:
        def tokens(texts: list[str]) -> list[list[int]]:
            return tokenizer(texts, add_special_tokens=False)["input_ids"]

        self.ratings = ratings
        self.header = tokenizer(f"One person's ratings, from {ratings.scale.said}, oldest first.\n")["input_ids"]
        names = tokens([item(ratings, number) for number in range(ratings.n_items)])
        (colon,) = tokens([":"])
        self.items = [name[: _ITEM_TOKENS - len(colon)] + colon for name in names]
        self.words = tokens(ratings.scale.words)
        self.stars = tokens([f" {word}\n" for word in ratings.scale.words])

    def of(self, events: np.ndarray, last_alone: bool = False) -> Row:
        """The row of some events, oldest first; the last one's rating is left out, since nothing follows it.

        Args:
            last_alone: whether only the last rating is read off.
        """
        ratings = self.ratings
        tokens, reads = list(self.header), []
        steps = ratings.scale.numbers(ratings.given[events])
        for place, event in enumerate(events.tolist()):
            tokens += self.items[ratings.items[event]]
            reads.append(len(tokens) - 1)
            tokens += self.stars[steps[place]] if place < len(events) - 1 else []
        kept = slice(-1, None) if last_alone else slice(None)
        supervised = np.isin(np.arange(len(tokens)), reads[kept])
        return Row(np.array(tokens), supervised, events[kept])

    def cases(self, cases: Cases) -> list[Row]:
        """A row for each case: its history, then its item."""
        return [
            self.of(np.append(history[history >= 0], event), last_alone=True)
            for history, event in zip(cases.history, cases.events, strict=True)
        ]


def windows(ratings: Ratings, size: int, share: float, seed: int) -> list[np.ndarray]:
    """Stretches of consecutive training ratings of one user, drawn until they hold a share of all training ratings.

    Args:
        size: ratings of a stretch at most.
        share: 0 to 1, of the training ratings.
        seed: a smaller share is part of a larger one of the same seed.

    Returns:
        Event numbers of each stretch.
    """
    train = ratings.train
    users = np.split(train, np.flatnonzero(np.diff(ratings.users[train])) + 1)
    parts = [part[start : start + size] for part in users for start in range(0, len(part), size)]
    order = stream(seed, "rate", "windows").permutation(len(parts))
    reached = np.cumsum([len(parts[number]) for number in order])
    count = int(np.searchsorted(reached, share * len(train) - 1e-9)) + 1
    return [parts[number] for number in order[:count]]
