"""Ranking in this process: requests that wait while a model works are its next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llmrec.contracts import Ranked, Recommender, Request
from llmrec.serve.ranker import RankedItems, Ranker

BATCH = 32  # requests at a time; a larger batch makes all of them wait for the longest
DELAY = 0.1  # of a batch's time, the longest that the next one waits to become as large (results/serve-linger.json)
TICK = 0.0005  # seconds
SMALL_K = 50  # requests for at most so many items share batches


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
    """Recommenders of this process, one batch at a time in a thread of its own."""

    name = "transformers"

    def __init__(self, batch: int = BATCH) -> None:
        """Take batches of at most so many requests."""
        self.batch = batch
        self.waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "llmrec-model")
        self._work: asyncio.Task[None] | None = None
        self._last = (0, 0.0)  # requests and seconds of the last batch

    def ranker(self, recommender: Recommender) -> Ranker:
        """See `Engine.ranker`."""
        return _Ranker(self, recommender)

    def add(self, one: _Waiting) -> None:
        """Queue a request; must be called in the event loop."""
        self.waiting.append(one)
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._empty())

    async def close(self) -> None:
        """See `Engine.close`."""
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
        end = time.perf_counter() + DELAY * seconds
        while len(self.waiting) < min(expected, self.batch) and time.perf_counter() < end:
            await asyncio.sleep(TICK)

    def _next(self) -> list[_Waiting]:
        """The request that has waited longest, and those of its kind behind it."""
        kind = self.waiting[0].kind
        taken = [one for one in self.waiting if one.kind == kind][: self.batch]
        chosen = set(map(id, taken))
        self.waiting = deque(one for one in self.waiting if id(one) not in chosen)
        return taken


class _Ranker:
    """One recommender."""

    def __init__(self, batching: DynamicBatching, recommender: Recommender) -> None:
        self.batching, self.recommender = batching, recommender

    async def rank(self, request: Request, k: int) -> RankedItems:
        """See `Ranker.rank`. A request that does not fit is refused alone, before it could spoil a batch."""
        self.recommender.check(request)
        answer: asyncio.Future[RankedItems] = asyncio.get_running_loop().create_future()
        self.batching.add(_Waiting(self.recommender, request, k, answer))
        return await answer


def _rank(batch: list[_Waiting]) -> Ranked:
    return batch[0].recommender.rank([one.request for one in batch], max(one.k for one in batch))
