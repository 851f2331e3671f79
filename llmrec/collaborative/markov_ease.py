"""Markov and EASE on recent items together: each score as a share of the best that its model gives for the history.

Ours. One knows what follows, the other what goes together; on Amazon Beauty the sum is past both by a fifth, so it is
the teacher to learn from, and a baseline to be held against.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmrec.collaborative.array_model import ArrayModel
from llmrec.contracts import Features, Memory, Sequences, Sizes
from llmrec.recipe.collaborative import MarkovEaseSpec


class MarkovEase(ArrayModel):
    """The sum of the shares of its parts `markov` and `recent`, 0 to 2; scores below 0 count as 0."""

    Spec = MarkovEaseSpec

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        """Nothing is learnt beside the parts."""

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for histories without items."""
        scores = _shares(self.parts["markov"].score(histories))
        scores += _shares(self.parts["recent"].score(histories))
        return scores

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """Nothing beside the parts, each of which has scores of its own."""
        return Memory(0, 0)


def _shares(scores: np.ndarray) -> np.ndarray:
    np.maximum(scores, 0, out=scores)
    best = scores.max(axis=1, keepdims=True, initial=0)
    scores /= np.where(best > 0, best, 1)
    return scores
