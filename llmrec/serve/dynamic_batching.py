"""Ranking in this process: requests that wait while a model works are its next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from llmrec.contracts import Ranked, Recommender, Request
from llmrec.decode.recommenders import Ensemble

BATCH = 32  # requests at a time; a larger batch makes all of them wait for the longest
MAX_DELAY = 0.1  # of a batch's time, the longest that the next one waits to become as large (results/serve-linger.json)
TICK = 0.0005  # seconds
SMALL_K = 50  # requests for at most so many items share batches


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


@dataclass
class _Waiting:
    """A request that waits."""

    recommender: Recommender
    request: Request
    k: int
    answer: asyncio.Future[RankedItems]
    since: float = field(default_factory=time.perf_counter)

    @property
    def kind(self) -> tuple[int, int]:
        """Requests of one kind may share a batch: one recommender, and about as many items."""
        return id(self.recommender), max(self.k, SMALL_K)


class DynamicBatching:
    """Runs the recommenders of this process, one batch at a time in a thread of its own."""

    name = "transformers"

    def __init__(self, batch: int = BATCH) -> None:
        """Take batches of at most so many requests."""
        self.batch = batch
        self.waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "llmrec-model")
        self._work: asyncio.Task[None] | None = None
        self._last = (0, 0.0)  # requests and seconds of the last batch

    async def rank(self, recommender: Recommender, request: Request, k: int) -> RankedItems:
        """The k best items for one request; the members of an ensemble work at the same time.

        A request that does not fit the model is refused alone by a RequestError, before it could spoil a batch.
        """
        if isinstance(recommender, Ensemble):
            return await self._mixed(recommender, request, k)
        recommender.check(request)
        answer: asyncio.Future[RankedItems] = asyncio.get_running_loop().create_future()
        self.waiting.append(_Waiting(recommender, request, k, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._empty())
        return await answer

    async def _mixed(self, ensemble: Ensemble, request: Request, k: int) -> RankedItems:
        members = zip(ensemble.members, ensemble.depths(k), strict=True)
        found = await asyncio.gather(*(self.rank(member.recommender, request, depth) for member, depth in members))
        begin = time.perf_counter()
        mixed = ensemble.combine([request], [Ranked(one.items[None], one.scores[None]) for one in found], k)
        seconds = max(one.ranked for one in found) + time.perf_counter() - begin
        return RankedItems(mixed.items[0], mixed.scores[0], max(one.waited for one in found), seconds)

    async def close(self) -> None:
        """Stop, when nothing is in flight."""
        if self._work is not None:
            await self._work
        self._thread.shutdown()

    async def _empty(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            await self._gather()
            batch = self._next()
            begin = time.perf_counter()
            try:
                ranked = await loop.run_in_executor(self._thread, _rank, batch)
            except Exception as error:  # the requests get it; the server goes on
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            seconds = time.perf_counter() - begin
            self._last = (len(batch), seconds)
            for row, one in enumerate(batch):
                if not one.answer.done():
                    items, scores = ranked.items[row, : one.k], ranked.scores[row, : one.k]
                    one.answer.set_result(RankedItems(items, scores, begin - one.since, seconds))

    async def _gather(self) -> None:
        """Wait a little for as many requests as the last batch had.

        Clients that were just answered and ask again would else fall into two half-batches for ever. Where the last
        batch was one request, nothing waits.
        """
        expected, seconds = self._last
        end = time.perf_counter() + MAX_DELAY * seconds
        while len(self.waiting) < min(expected, self.batch) and time.perf_counter() < end:
            await asyncio.sleep(TICK)

    def _next(self) -> list[_Waiting]:
        """The request that has waited longest, and those of its kind behind it."""
        kind = self.waiting[0].kind
        taken = [one for one in self.waiting if one.kind == kind][: self.batch]
        chosen = set(map(id, taken))
        self.waiting = deque(one for one in self.waiting if id(one) not in chosen)
        return taken


def _rank(batch: list[_Waiting]) -> Ranked:
    return batch[0].recommender.rank([one.request for one in batch], max(one.k for one in batch))
