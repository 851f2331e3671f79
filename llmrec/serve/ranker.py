"""Rankers: one request in, its best items out, while other requests share the models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrec.contracts import Ranked, Recommender, Request
from llmrec.decode.recommenders import Ensemble


@dataclass(frozen=True)
class RankedItems:
    """The items for one request.

    Attributes:
        items: (k,) item numbers, best first; -1 where the filter left fewer.
        scores: (k,) log-probabilities in nats; -inf there.
        waited: seconds until a model took the request up.
        ranked: seconds of the models and the search.
    """

    items: np.ndarray
    scores: np.ndarray
    waited: float
    ranked: float


class Ranker(Protocol):
    """Ranks items of one catalogue for requests that come one by one."""

    async def rank(self, request: Request, k: int) -> RankedItems:
        """The k best items.

        Raises:
            RequestError: the request does not fit the model.
        """
        ...


class Engine(Protocol):
    """Runs recommenders in a server."""

    name: str

    def ranker(self, recommender: Recommender) -> Ranker:
        """A ranker for a recommender that is no ensemble."""
        ...

    async def close(self) -> None:
        """Stop, when nothing is in flight."""
        ...


class EnsembleRanker:
    """Asks every member at the same time, and mixes what they give."""

    def __init__(self, ensemble: Ensemble, members: Sequence[Ranker]) -> None:
        """Mix rankers of the ensemble's members, in its order."""
        self.ensemble, self.members = ensemble, members

    async def rank(self, request: Request, k: int) -> RankedItems:
        """See `Ranker.rank`."""
        wanted = self.ensemble.depths(k)
        found = await asyncio.gather(
            *(ranker.rank(request, depth) for ranker, depth in zip(self.members, wanted, strict=True))
        )
        begin = time.perf_counter()
        lists = [Ranked(one.items[None], one.scores[None]) for one in found]
        mixed = self.ensemble.combine([request], lists, k)
        seconds = max(one.ranked for one in found) + time.perf_counter() - begin
        return RankedItems(mixed.items[0], mixed.scores[0], max(one.waited for one in found), seconds)


def ranker_of(recommender: Recommender, engine: Engine) -> Ranker:
    """A ranker for any recommender."""
    if isinstance(recommender, Ensemble):
        return EnsembleRanker(recommender, [ranker_of(one.recommender, engine) for one in recommender.members])
    return engine.ranker(recommender)
