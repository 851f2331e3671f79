"""A Markov model over short gaps: what tends to come soon after the last two items.

Ours, after the usual item-to-item chain: nearer successors count more, and popular items are divided down.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from llmrec.collaborative.popularity import users_of_items
from llmrec.contracts import Sequences


class Markov:
    """Scores items by normalised transitions from the last items of a history.

    With c[a, b] the sum of 1 / distance over all places where b follows a within `window`, and u the users of an item,
    T[a, b] = c[a, b] / sqrt((u[a] + 1) (u[b] + 1)); the score is T[last] + `fade` · T[last but one].

    Args:
        window: the largest distance between two events that makes a transition.
        fade: what the last item but one counts, against 1 for the last.

    Attributes:
        starts: (n_items + 1,) int64, item a's transitions are `starts[a]:starts[a + 1]`; set by `fit`.
        successors: (transitions,) int64, the item that follows, ascending for each a.
        strengths: (transitions,) float32, T[a, b] of each.
    """

    starts: np.ndarray
    successors: np.ndarray
    strengths: np.ndarray

    def __init__(self, window: int = 3, fade: float = 0.5) -> None:
        self.window = window
        self.fade = fade

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Count transitions, sparsely: memory grows with the pairs seen, not with items squared. Returns itself."""
        rows, items = train.rows, train.items.astype(np.int64)
        pairs, worth = [], []
        for distance in range(1, self.window + 1):
            same_row = rows[distance:] == rows[:-distance]
            pairs.append((items[:-distance] * n_items + items[distance:])[same_row])
            worth.append(np.full(len(pairs[-1]), 1 / distance))
        pair, which = np.unique(np.concatenate(pairs), return_inverse=True)
        before, after = pair // n_items, pair % n_items
        users = users_of_items(train, n_items) + 1.0
        counts = np.bincount(which, weights=np.concatenate(worth), minlength=len(pair))
        self.starts = np.searchsorted(before, np.arange(n_items + 1))
        self.successors = after
        self.strengths = (counts / np.sqrt(users[before] * users[after])).astype(np.float32)
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for histories without items, or whose last two never came before another."""
        scores = np.zeros((len(histories), len(self.starts) - 1), dtype=np.float32)
        for back, worth in ((1, 1.0), (2, self.fade)):
            rows = np.flatnonzero(histories.lengths >= back)
            self._add_transitions(scores, rows, histories.items[histories.offsets[rows + 1] - back], worth)
        return scores

    def _add_transitions(self, scores: np.ndarray, rows: np.ndarray, items: np.ndarray, worth: float) -> None:
        """Add worth · T[items[i]] to scores[rows[i]] for all i at once; rows are distinct."""
        lengths = self.starts[items + 1] - self.starts[items]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        transition = np.repeat(self.starts[items], lengths) + within
        scores[np.repeat(rows, lengths), self.successors[transition]] += worth * self.strengths[transition]
