"""Cases: ratings to predict, each with what is known of its user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.contracts import Sequences
from llmrec.errors import DataError
from llmrec.rate.ratings import Ratings
from llmrec.seed import stream

Order = Literal["time", "newest first", "shuffled"]
ORDERS: tuple[Order, ...] = ("time", "newest first", "shuffled")


@dataclass(frozen=True)
class Cases:
    """Ratings to predict.

    Attributes:
        events: (cases,) int64 event numbers of the ratings.
        history: (cases, places) int64 event numbers of the last known ratings before each, oldest first; -1 before
            the first.
        known: event numbers of everything known of each case's user: in a random split later ratings, too.
    """

    events: np.ndarray
    history: np.ndarray
    known: Sequences

    def __len__(self) -> int:
        return len(self.events)

    def take(self, rows: np.ndarray) -> Cases:
        """The cases of some row numbers."""
        return Cases(self.events[rows], self.history[rows], Sequences.of(self.known[int(row)] for row in rows))

    def told(self, order: Order, seed: int) -> Cases:
        """The same with every history told in another order; what is known of the user stays."""
        if order == "time":
            return self
        history = np.full_like(self.history, -1)
        for row, events in enumerate(self.history):
            there = events[events >= 0]
            draw = stream(seed, "rate", "shuffled", int(self.events[row]))
            history[row, len(events) - len(there) :] = (
                there[::-1] if order == "newest first" else draw.permutation(there)
            )
        return Cases(self.events, history, self.known)


def cases_of(ratings: Ratings, events: np.ndarray, places: int) -> Cases:
    """What is known for some events.

    Args:
        events: (cases,) event numbers.
        places: ratings that a history holds.
    """
    readable = _readable(ratings)
    start = np.searchsorted(readable, np.searchsorted(ratings.users, ratings.users[events]))
    last = np.searchsorted(ratings.users, ratings.users[events], side="right") if ratings.split == "random" else events
    lengths = np.searchsorted(readable, last) - start
    rows = np.repeat(np.arange(len(events)), lengths)
    found = readable[np.arange(lengths.sum()) + np.repeat(start - np.cumsum(lengths) + lengths, lengths)]
    other = found != events[rows]  # a training event is not known to itself
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows[other], minlength=len(events)))]).astype(np.int64)
    return Cases(events, histories(ratings, events, places), Sequences(offsets, found[other].astype(np.int32)))


def histories(ratings: Ratings, events: np.ndarray, places: int) -> np.ndarray:
    """(cases, places) event numbers of the last known ratings before each event, oldest first; -1 before the first."""
    readable = _readable(ratings)
    start = np.searchsorted(readable, np.searchsorted(ratings.users, ratings.users[events]))
    at = np.searchsorted(readable, events)[:, None] - np.arange(places, 0, -1)
    return np.where(at >= start[:, None], readable[np.clip(at, 0, None)], -1)


def _readable(ratings: Ratings) -> np.ndarray:
    """Event numbers that may be read for a case: the training part, or all (of which only earlier ones are)."""
    return ratings.train if ratings.split == "random" else np.arange(len(ratings.given))


def sample(ratings: Ratings, part: int, count: int | None, places: int, seed: int) -> Cases:
    """Some cases of a part, drawn without repetition; all of them for None, or where there are no more.

    Raises:
        DataError: the part is empty.
    """
    events = np.flatnonzero(ratings.parts == part)
    if not len(events):
        raise DataError(
            "the split held no rating out. Raise data.holdout_fraction, or take the other split: --split random"
        )
    if count is not None and count < len(events):
        events = np.sort(stream(seed, "rate", "cases", part).choice(events, count, replace=False))
    return cases_of(ratings, events, places)
