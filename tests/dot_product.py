"""A recommender without codes: what a new one must bring to be judged, served, exported and chatted with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec.contracts import Ranked, Request, check_k

NEWEST = 4  # items of a history that it reads


class DotProduct:
    """Scores items by the dot product of their vector with the sum of those of the newest items of a history."""

    reads = frozenset({"history"})
    reads_items = NEWEST

    def __init__(self, vectors: np.ndarray) -> None:
        """Take (items, width) vectors."""
        self.vectors, self.n_items = vectors, len(vectors)

    def check(self, request: Request) -> None:
        """Every request can be answered."""

    def notes(self, request: Request) -> list[str]:
        """Words are not read."""
        return ["the words were not read"] if request.words else []

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """The k best items for each request."""
        check_k(k, self.n_items)
        ranked = Ranked.empty(len(requests), k)
        for row, request in enumerate(requests):
            taste = self.vectors[np.asarray(request.history[-NEWEST:], np.int64)].sum(0)
            logits = self.vectors @ taste
            logs = logits - np.logaddexp.reduce(logits)
            free = np.flatnonzero(request.permits(np.arange(self.n_items)))
            best = free[np.argsort(-logs[free], kind="stable")[:k]]
            ranked.items[row, : len(best)], ranked.scores[row, : len(best)] = best, logs[best]
        return ranked
