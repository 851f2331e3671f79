"""Recommenders beside the language model: a collaborative model, and an ensemble of several recommenders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.collaborative import POWER, TOP_K
from llmrec.contracts import CollaborativeModel, Ranked, Recommender, Request, ScoreKind, Sequences, check_k

_BLOCK = 512  # requests scored at once, each a row over the catalogue


class Collaborative(Recommender):
    """A collaborative model over the items of a catalogue.

    Its scores are turned into log-probabilities (`log_probabilities`), normalized without denied items of the history.
    Items that the model was not fitted on are never recommended, and are skipped in histories.
    """

    reads = frozenset({"history"})
    reads_items = None

    def __init__(self, model: CollaborativeModel, item_ids: Sequence[str]) -> None:
        """Use a fitted model for a catalogue of `item_ids`, which may have other items than its own."""
        self.model = model
        numbers = {item_id: number for number, item_id in enumerate(model.items.ids)}
        self._to_model = np.array([numbers.get(item_id, -1) for item_id in item_ids], np.int64)
        self._to_catalogue = np.full(len(numbers), -1, np.int64)
        self._to_catalogue[self._to_model[self._to_model >= 0]] = np.flatnonzero(self._to_model >= 0)

    @property
    def n_items(self) -> int:
        return len(self._to_model)

    def check(self, request: Request) -> None:
        """Do nothing: every request can be answered."""

    def notes(self, request: Request) -> list[str]:
        return []

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        check_k(k, self.n_items)
        blocks = [Ranked.empty(0, k)]
        blocks += [self._rank(requests[start : start + _BLOCK], k) for start in range(0, len(requests), _BLOCK)]
        return Ranked(np.concatenate([block.items for block in blocks]), np.concatenate([b.scores for b in blocks]))

    def _rank(self, requests: Sequence[Request], k: int) -> Ranked:
        histories = [self._to_model[np.asarray(request.history, np.int64)] for request in requests]
        scores = self.model.score(Sequences.of(history[history >= 0] for history in histories))
        for row, request in enumerate(requests):
            seen = self._to_model[np.intersect1d(request.history, request.denied).astype(np.int64)]
            scores[row, seen[seen >= 0]] = -np.inf
        logs = log_probabilities(scores, self.model.score_kind)
        ranked = Ranked.empty(len(requests), k)
        for row, request in enumerate(requests):
            candidates = np.flatnonzero(np.isfinite(logs[row]) & (self._to_catalogue >= 0))
            candidates = candidates[request.permits(self._to_catalogue[candidates])]
            best = candidates[np.argsort(-logs[row, candidates], kind="stable")[:k]]
            ranked.items[row, : len(best)], ranked.scores[row, : len(best)] = self._to_catalogue[best], logs[row, best]
        return ranked


def log_probabilities(scores: np.ndarray, kind: ScoreKind) -> np.ndarray:
    """Turn scores into log-probabilities, as `collaborative.topk_probabilities` defines them.

    Args:
        scores: (rows, items) float32; -inf for excluded items.
        kind: shares, whose squares are normalized, or logits.

    Returns:
        (rows, items) float64 nats, normalized over the `TOP_K` most likely items of the row; -inf for items without a
        probability, which are all items of a row without preferences.
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
        depth: minimum number of its best items that are mixed; all others have probability 0.
    """

    recommender: Recommender
    weight: float
    depth: int


class Ensemble(Recommender):
    """A mixture of recommenders: the probability of an item is the weighted sum of its probabilities in the members.

    The weight of a member that recommends nothing for a request, as after a history of unknown items, is shared among
    the others; so is that of a member that does not read words, if the request has words and another member reads them.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Mix members; weights need not sum to 1."""
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
        """Number of items of each member that are mixed into lists of k items."""
        return [min(max(k, member.depth), self.n_items) for member in self.members]

    def rank_members(self, requests: Sequence[Request], k: int) -> list[Ranked]:
        """Lists of each member that are mixed into lists of k items."""
        depths = zip(self.members, self.depths(k), strict=True)
        return [member.recommender.rank(requests, depth) for member, depth in depths]

    def combine(self, requests: Sequence[Request], ranked: Sequence[Ranked], k: int) -> Ranked:
        """The k best items of the mixture of `rank_members`; ties in the order of the members."""
        weights = self._weights(requests, ranked)
        best = Ranked.empty(len(requests), k)
        for row in range(len(requests)):
            items = np.concatenate([each.items[row] for each in ranked])
            probabilities = [
                np.exp(each.scores[row].astype(np.float64)) * weight
                for each, weight in zip(ranked, weights[row], strict=True)
            ]
            valid = items >= 0
            distinct, first, inverse = np.unique(items[valid], return_index=True, return_inverse=True)
            mixed = np.bincount(inverse, np.concatenate(probabilities)[valid], len(distinct))
            by_member = np.argsort(first, kind="stable")
            order = by_member[np.argsort(-mixed[by_member], kind="stable")]
            order = order[mixed[order] > 0][:k]
            best.items[row, : len(order)], best.scores[row, : len(order)] = distinct[order], np.log(mixed[order])
        return best

    def _weights(self, requests: Sequence[Request], ranked: Sequence[Ranked]) -> np.ndarray:
        """(rows, members) weights that sum to 1 over the active members; equal if they are all 0."""
        ignores_words = np.array(["words" not in member.recommender.reads for member in self.members])
        has_words = np.array([request.words != "" for request in requests], bool)
        active = np.stack([(each.items >= 0).any(1) for each in ranked], axis=1)
        active &= ~np.outer(has_words, ignores_words & ~ignores_words.all())
        weights = active * np.array([member.weight for member in self.members], np.float64)
        weights = np.where(weights.any(1, keepdims=True), weights, active)
        return weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)
