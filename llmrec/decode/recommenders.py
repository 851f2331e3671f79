"""Recommenders other than a language model: a collaborative model, and an ensemble of several recommenders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.collaborative.probabilities import POWER, TOP_K
from llmrec.contracts import CollaborativeModel, Ranked, Recommender, Request, ScoreKind, Sequences, check_k

_BLOCK = 512  # requests that are scored at once, each a row over the catalogue


class Collaborative(Recommender):
    """A collaborative model over the items of a catalogue.

    Scores are logarithms of the probabilities that the model's scores stand for (`log_probabilities`); where items of
    the history are denied, of the probabilities that one of the others comes next. An item that the model was not
    fitted on is never recommended, and is left out of histories.
    """

    reads = frozenset({"history"})
    reads_items = None

    def __init__(self, model: CollaborativeModel, item_ids: Sequence[str]) -> None:
        """Use a fitted model for a catalogue of `item_ids`, which may have other items than the model."""
        self.model = model
        known = {item_id: number for number, item_id in enumerate(model.items.ids)}
        self._fitted = np.array([known.get(item_id, -1) for item_id in item_ids], np.int64)
        self._catalogue = np.full(len(known), -1, np.int64)
        self._catalogue[self._fitted[self._fitted >= 0]] = np.flatnonzero(self._fitted >= 0)

    @property
    def n_items(self) -> int:
        return len(self._fitted)

    def check(self, request: Request) -> None:
        """Every request can be answered."""

    def notes(self, request: Request) -> list[str]:
        return []

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
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


@dataclass(frozen=True)
class Member:
    """A recommender of an ensemble, over its catalogue.

    Attributes:
        weight: of its probabilities in the mixture.
        depth: how many of its best items are mixed, at least; an item that is not among them counts as impossible.
    """

    recommender: Recommender
    weight: float
    depth: int


class Ensemble(Recommender):
    """A mixture of recommenders: the probability of an item is the weighted sum of those that the members give it.

    A member that recommends nothing for a request, as after a history of unknown items, leaves its weight to the
    others; and so does one that does not read words, where the request has words and another member reads them.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Mix some members; weights need not sum to 1."""
        self.members = list(members)

    @property
    def n_items(self) -> int:
        return self.members[0].recommender.n_items

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(member.recommender.reads for member in self.members))

    @property
    def reads_items(self) -> int | None:
        counts = [member.recommender.reads_items for member in self.members]
        return None if None in counts else max(count for count in counts if count is not None)

    def check(self, request: Request) -> None:
        for member in self.members:
            member.recommender.check(request)

    def notes(self, request: Request) -> list[str]:
        return list(dict.fromkeys(note for member in self.members for note in member.recommender.notes(request)))

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        check_k(k, self.n_items)
        return self.combine(requests, self.rank_members(requests, k), k)

    def depths(self, k: int) -> list[int]:
        """Items that each member gives to the mixture for lists of k items."""
        return [min(max(k, member.depth), self.n_items) for member in self.members]

    def rank_members(self, requests: Sequence[Request], k: int) -> list[Ranked]:
        """The lists of each member that are mixed into lists of k items."""
        depths = zip(self.members, self.depths(k), strict=True)
        return [member.recommender.rank(requests, depth) for member, depth in depths]

    def combine(self, requests: Sequence[Request], ranked: Sequence[Ranked], k: int) -> Ranked:
        """The k best of the mixture of `rank_members`; of equals, those of the first member first."""
        weights = self._weights(requests, ranked)
        best = Ranked.empty(len(requests), k)
        for row in range(len(requests)):
            numbers = np.concatenate([one.items[row] for one in ranked])
            shares = [
                np.exp(one.scores[row].astype(np.float64)) * weight
                for one, weight in zip(ranked, weights[row], strict=True)
            ]
            given = numbers >= 0
            distinct, first, inverse = np.unique(numbers[given], return_index=True, return_inverse=True)
            mixed = np.bincount(inverse, np.concatenate(shares)[given], len(distinct))
            by_place = np.argsort(first, kind="stable")
            order = by_place[np.argsort(-mixed[by_place], kind="stable")]
            order = order[mixed[order] > 0][:k]
            best.items[row, : len(order)], best.scores[row, : len(order)] = distinct[order], np.log(mixed[order])
        return best

    def _weights(self, requests: Sequence[Request], ranked: Sequence[Ranked]) -> np.ndarray:
        """(rows, members) weights that sum to 1 over the members that take part; equal ones where theirs are all 0."""
        wordless = np.array(["words" not in member.recommender.reads for member in self.members])
        worded = np.array([request.words != "" for request in requests], bool)
        part = np.stack([(one.items >= 0).any(1) for one in ranked], axis=1)
        part &= ~np.outer(worded, wordless & ~wordless.all())
        weights = part * np.array([member.weight for member in self.members], np.float64)
        weights = np.where(weights.any(1, keepdims=True), weights, part)
        return weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)
