"""Any fitted collaborative model as a recommender."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec.collaborative.probabilities import POWER, TOP_K
from llmrec.contracts import CollaborativeModel, Ranked, Request, ScoreKind, Sequences, check_k

_BLOCK = 512  # requests that are scored at once, each a row over the catalogue


class Collaborative:
    """A collaborative model over the items of a catalogue; see `contracts.Recommender`.

    Scores are logarithms of the probabilities that the model's scores stand for (`log_probabilities`); where items of
    the history are denied, of the probabilities that one of the others comes next. An item that the model was not
    fitted on is never recommended, and is left out of histories.

    Attributes:
        model: fitted.
    """

    reads = frozenset({"history"})
    reads_items = None

    def __init__(self, model: CollaborativeModel, item_ids: Sequence[str]) -> None:
        """Use a model for a catalogue, which may have other items.

        Args:
            item_ids: of the catalogue, by item number.
        """
        self.model = model
        known = {item_id: number for number, item_id in enumerate(model.items.ids)}
        self._fitted = np.array([known.get(item_id, -1) for item_id in item_ids], np.int64)
        self._catalogue = np.full(len(known), -1, np.int64)
        self._catalogue[self._fitted[self._fitted >= 0]] = np.flatnonzero(self._fitted >= 0)

    @property
    def n_items(self) -> int:
        """See `contracts.Recommender`."""
        return len(self._fitted)

    def check(self, request: Request) -> None:
        """Every request can be answered."""

    def notes(self, request: Request) -> list[str]:
        """See `contracts.Recommender`."""
        return []

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """See `contracts.Recommender`."""
        check_k(k, self.n_items)
        found = [self._rank(requests[start : start + _BLOCK], k) for start in range(0, len(requests), _BLOCK)]
        blocks = [Ranked.empty(0, k), *found]
        return Ranked(np.concatenate([one.items for one in blocks]), np.concatenate([one.scores for one in blocks]))

    def _rank(self, requests: Sequence[Request], k: int) -> Ranked:
        histories = [self._fitted[np.asarray(one.history, np.int64)] for one in requests]
        scores = self.model.score(Sequences.of(history[history >= 0] for history in histories))
        for row, request in enumerate(requests):
            seen = self._fitted[np.intersect1d(request.history, request.denied).astype(np.int64)]
            scores[row, seen[seen >= 0]] = -np.inf
        logs = log_probabilities(scores, self.model.score_kind)
        ranked = Ranked.empty(len(requests), k)
        for row, request in enumerate(requests):
            likely = np.flatnonzero(np.isfinite(logs[row]) & (self._catalogue >= 0))
            likely = likely[request.permits(self._catalogue[likely])]
            best = likely[np.argsort(-logs[row, likely], kind="stable")[:k]]
            ranked.items[row, : len(best)], ranked.scores[row, : len(best)] = self._catalogue[best], logs[row, best]
        return ranked


def log_probabilities(scores: np.ndarray, kind: ScoreKind) -> np.ndarray:
    """Logarithms of the probabilities that scores stand for, as `collaborative.probabilities` defines them.

    Args:
        scores: (rows, items) float32; -inf for items that may not come.
        kind: shares, which count by their square, or logits.

    Returns:
        (rows, items) float64 nats, relative to the sum over the `TOP_K` likeliest items of the row; -inf for items
        without a probability, which are all of a row where the model prefers none.
    """
    values = scores.astype(np.float64)
    if kind == "shares":
        with np.errstate(divide="ignore"):
            logs = POWER * np.log(np.maximum(values, 0))
    else:
        lowest = np.where(np.isneginf(values), np.inf, values).min(1, keepdims=True)
        logs = np.where(values.max(1, keepdims=True) > lowest, values, -np.inf)
    count = min(TOP_K, logs.shape[1])
    best = -np.partition(-logs, count - 1, axis=1)[:, :count]
    highest = best.max(1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0)
    total = np.exp(best - highest).sum(1, keepdims=True)
    return logs - highest - np.log(np.where(total > 0, total, 1))
