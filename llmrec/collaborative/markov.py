"""A Markov model over short gaps: what tends to come soon after the last two items.

Ours, after the usual item-to-item chain: nearer successors count more, and popular items are divided down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.collaborative.popularity import users_of_items
from llmrec.contracts import Features, Memory, Sequences, Sizes
from llmrec.recipe.collaborative import MarkovSpec


class Markov(ArrayModel):
    """Scores items by normalised transitions from the last items of a history.

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

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        """Count transitions, sparsely: memory grows with the pairs seen, not with items squared."""
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
        """(rows, n_items) float32; 0 for histories without items, or whose last two never came before another."""
        scores = np.zeros((len(histories), len(self.items)), dtype=np.float32)
        for steps_back, weight in ((1, 1.0), (2, self.spec.fade)):
            rows = np.flatnonzero(histories.lengths >= steps_back)
            self._add_transitions(scores, rows, histories.items[histories.offsets[rows + 1] - steps_back], weight)
        return scores

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """Some numbers for each pair of events within `max_gap`; and the scores."""
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
