"""Markov and EASE on recent items together: each score as a share of the best that its model gives for the history.

Ours. One knows what follows, the other what goes together; on Amazon Beauty the sum is past both by a fifth, so it is
the teacher to learn from, and a baseline to be held against.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from llmrec.collaborative.ease import EaseRecent
from llmrec.collaborative.markov import Markov
from llmrec.contracts import Sequences


class MarkovEase:
    """The sum of both shares, 0 to 2; below 0 counts as 0.

    Args:
        markov, recent: fitted models to add; with both given no `fit` is needed, and `fit` fits them anew.
    """

    def __init__(self, markov: Markov | None = None, recent: EaseRecent | None = None) -> None:
        self.parts = (markov or Markov(), recent or EaseRecent())

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Fit both; returns itself."""
        for part in self.parts:
            part.fit(train, n_items)
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for histories without items."""
        first, other = (_shares(part.score(histories)) for part in self.parts)
        first += other
        return first


def _shares(scores: np.ndarray) -> np.ndarray:
    np.maximum(scores, 0, out=scores)
    best = scores.max(axis=1, keepdims=True, initial=0)
    scores /= np.where(best > 0, best, 1)
    return scores
