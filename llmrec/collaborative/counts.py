"""Models from counts: popularity, Markov transitions, and their sum with EASE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.contracts import Memory, Sequences, Sizes
from llmrec.recipe.collaborative import MarkovEaseSpec, MarkovSpec, PopularitySpec


def users_of_items(train: Sequences, n_items: int) -> np.ndarray:
    """(n_items,) int64, number of rows of `train` with each item; a repeat within a row counts once."""
    pairs = np.unique(train.rows * n_items + train.items)
    return np.bincount(pairs % n_items, minlength=n_items)


class Popularity(ArrayModel):
    """Scores an item by its number of training users, `users`: (n_items,) int64."""

    Spec = PopularitySpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"users": ("int64", "items")}
    users: np.ndarray

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        self.users = users_of_items(train, len(self.items))

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32, the same row for every history."""
        return np.tile(self.users.astype(np.float32), (len(histories), 1))

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """A few numbers for each event, and the scores."""
        return Memory(40 * sizes.events + 16 * sizes.items, 4 * (rows + 3) * sizes.items)


class Markov(ArrayModel):
    """Scores items by normalised transitions from the last two items of a history. Ours, after item-to-item chains.

    With c[a, b] the sum of 1 / distance over all places where b follows a within `max_gap`, and u the users of an item,
    T[a, b] = c[a, b] / sqrt((u[a] + 1) (u[b] + 1)); the score is T[last] + `fade` · T[last but one].

    Attributes:
        starts: (n_items + 1,) int64, item a's transitions are `starts[a]:starts[a + 1]`; set by `fit`.
        successors: (transitions,) int64, the item that follows, ascending for each a.
        strengths: (transitions,) float32, T[a, b] of each.
    """

    Spec = MarkovSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {
        "starts": ("int64", "items + 1"),
        "successors": ("int64", "transitions"),
        "strengths": ("float32", "transitions"),
    }
    spec: MarkovSpec
    starts: np.ndarray
    successors: np.ndarray
    strengths: np.ndarray

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        """Count transitions as a sparse matrix: memory grows with the pairs that occur, not with items squared."""
        n_items, rows, items = len(self.items), train.rows, train.items.astype(np.int64)
        pairs, counts = [], []
        for distance in range(1, self.spec.max_gap + 1):
            same_row = rows[distance:] == rows[:-distance]
            pairs.append((items[:-distance] * n_items + items[distance:])[same_row])
            counts.append(np.full(len(pairs[-1]), 1 / distance))
        pair, index = np.unique(np.concatenate(pairs), return_inverse=True)
        before, after = pair // n_items, pair % n_items
        users = users_of_items(train, n_items) + 1.0
        summed = np.bincount(index, weights=np.concatenate(counts), minlength=len(pair))
        self.starts = np.searchsorted(before, np.arange(n_items + 1))
        self.successors = after
        self.strengths = (summed / np.sqrt(users[before] * users[after])).astype(np.float32)

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for histories without items, or whose last two were never followed by an item."""
        scores = np.zeros((len(histories), len(self.items)), dtype=np.float32)
        for steps_back, weight in ((1, 1.0), (2, self.spec.fade)):
            rows = np.flatnonzero(histories.lengths >= steps_back)
            self._add_transitions(scores, rows, histories.items[histories.offsets[rows + 1] - steps_back], weight)
        return scores

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """A few numbers for each pair of events within `max_gap`; and the scores."""
        transitions = self.spec.max_gap * sizes.events
        held = 12 * transitions + 8 * sizes.items
        fit = 72 * transitions + 48 * sizes.events + 24 * sizes.items
        return Memory(fit, held + 32 * min(transitions, rows * sizes.items) + 4 * rows * sizes.items)

    def _is_consistent(self) -> bool:
        starts, successors = self.starts, self.successors
        if starts[0] != 0 or starts[-1] != len(successors) or (np.diff(starts) < 0).any():
            return False
        return not len(successors) or (successors.min() >= 0 and successors.max() < len(self.items))

    def _add_transitions(self, scores: np.ndarray, rows: np.ndarray, items: np.ndarray, weight: float) -> None:
        """Add weight · T[items[i]] to scores[rows[i]] for all i at once; rows are distinct."""
        lengths = self.starts[items + 1] - self.starts[items]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        transition = np.repeat(self.starts[items], lengths) + within
        scores[np.repeat(rows, lengths), self.successors[transition]] += weight * self.strengths[transition]


class MarkovEase(ArrayModel):
    """The sum of Markov's and `EaseRecent`'s scores, each divided by the row's maximum: 0 to 2. Ours.

    Markov models what follows an item, EASE what occurs with it; on Amazon Beauty the sum is better than both by a
    fifth, so it is the default teacher of SFT, and a baseline. Scores below 0 count as 0.
    """

    Spec = MarkovEaseSpec

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for histories without items."""
        scores = _divided_by_maximum(self.parts["markov"].score(histories))
        scores += _divided_by_maximum(self.parts["recent"].score(histories))
        return scores


def _divided_by_maximum(scores: np.ndarray) -> np.ndarray:
    np.maximum(scores, 0, out=scores)
    best = scores.max(axis=1, keepdims=True, initial=0)
    scores /= np.where(best > 0, best, 1)
    return scores
