"""Several recommenders as one: a mixture of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.contracts import Ranked, Recommender, Request, check_k


@dataclass(frozen=True)
class Member:
    """A recommender of an ensemble.

    Attributes:
        recommender: over the catalogue of the ensemble.
        weight: of its probabilities in the mixture.
        depth: how many of its best items are mixed, at least; an item that is not among them counts as impossible.
    """

    recommender: Recommender
    weight: float
    depth: int


class Ensemble:
    """A mixture of recommenders; see `contracts.Recommender`.

    The probability of an item is the weighted sum of those that the members give it. A member that recommends nothing
    for a request, as after a history that it knows nothing of, leaves its weight to the others; and so does one that
    does not read words, where the request has words and another member reads them.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Mix some members; weights need not sum to 1."""
        self.members = list(members)

    @property
    def n_items(self) -> int:
        """See `contracts.Recommender`."""
        return self.members[0].recommender.n_items

    @property
    def reads(self) -> frozenset[str]:
        """See `contracts.Recommender`."""
        return frozenset().union(*(member.recommender.reads for member in self.members))

    @property
    def reads_items(self) -> int | None:
        """See `contracts.Recommender`."""
        counts = [member.recommender.reads_items for member in self.members]
        return None if None in counts else max(count for count in counts if count is not None)

    def check(self, request: Request) -> None:
        """Refuse what a member refuses."""
        for member in self.members:
            member.recommender.check(request)

    def notes(self, request: Request) -> list[str]:
        """See `contracts.Recommender`."""
        return list(dict.fromkeys(note for member in self.members for note in member.recommender.notes(request)))

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """See `contracts.Recommender`."""
        check_k(k, self.n_items)
        return self.combine(requests, [self.rank_member(place, requests, k) for place in range(len(self.members))], k)

    def rank_member(self, place: int, requests: Sequence[Request], k: int) -> Ranked:
        """What one member gives to the mixture for lists of k items."""
        member = self.members[place]
        return member.recommender.rank(requests, min(max(k, member.depth), self.n_items))

    def combine(self, requests: Sequence[Request], ranked: Sequence[Ranked], k: int) -> Ranked:
        """The k best of the mixture; of equals, those of the first member first.

        Args:
            requests: what was asked.
            ranked: the lists of each member, as `rank_member` gives them.
            k: items wanted.
        """
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
        deaf = np.array(["words" not in member.recommender.reads for member in self.members])
        worded = np.array([request.words != "" for request in requests], bool)
        part = np.stack([(one.items >= 0).any(1) for one in ranked], axis=1)
        part &= ~np.outer(worded, deaf & ~deaf.all())
        weights = part * np.array([member.weight for member in self.members], np.float64)
        weights = np.where(weights.any(1, keepdims=True), weights, part)
        return weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)
