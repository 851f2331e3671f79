"""Dynamic batching in this process: requests that arrive while the model runs form its next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from llmrec.contracts import Ranked, Recommender, Request
from llmrec.decode.recommenders import Ensemble

BATCH = 32  # requests; in a larger batch all of them wait for the longest
MAX_DELAY = 0.1  # fraction of the last batch's time that the next one may wait for requests (results/serve-linger.json)
TICK = 0.0005  # seconds
SMALL_K = 50  # requests for up to so many items share batches


@dataclass(frozen=True)
class RankedItems:
    """Items of one request.

    Attributes:
        items: (k,) item numbers, best first; -1 where the filter leaves fewer.
        scores: (k,) log-probabilities in nats; -inf there.
        waited: seconds until the model started with the request.
        ranked: seconds of the models and the search.
    """

    items: np.ndarray
    scores: np.ndarray
    waited: float
    ranked: float


@dataclass
class _Queued:
    """A queued request."""

    recommender: Recommender
    request: Request
    k: int
    answer: asyncio.Future[RankedItems]
    since: float = field(default_factory=time.perf_counter)

    @property
    def kind(self) -> tuple[int, int]:
        """Requests of one kind may share a batch: same recommender, similar number of items."""
        return id(self.recommender), max(self.k, SMALL_K)


class DynamicBatching:
    """Run recommenders, one batch at a time, in a thread of their own."""

    name = "transformers"

    def __init__(self, batch: int = BATCH) -> None:
        """Set the maximum batch size in requests."""
        self.batch = batch
        self.queue: deque[_Queued] = deque()
        self._thread = ThreadPoolExecutor(1, "llmrec-model")
        self._task: asyncio.Task[None] | None = None
        self._last_batch = (0, 0.0)  # requests, seconds

    async def rank(self, recommender: Recommender, request: Request, k: int) -> RankedItems:
        """Return the k best items of one request; the members of an ensemble run concurrently.

        A request that does not fit the model is refused by a RequestError before it joins a batch.
        """
        if isinstance(recommender, Ensemble):
            return await self._rank_ensemble(recommender, request, k)
        recommender.check(request)
        answer: asyncio.Future[RankedItems] = asyncio.get_running_loop().create_future()
        self.queue.append(_Queued(recommender, request, k, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run_batches())
        return await answer

    async def _rank_ensemble(self, ensemble: Ensemble, request: Request, k: int) -> RankedItems:
        members = zip(ensemble.members, ensemble.depths(k), strict=True)
        lists = await asyncio.gather(*(self.rank(member.recommender, request, depth) for member, depth in members))
        begin = time.perf_counter()
        mixed = ensemble.combine([request], [Ranked(each.items[None], each.scores[None]) for each in lists], k)
        seconds = max(each.ranked for each in lists) + time.perf_counter() - begin
        return RankedItems(mixed.items[0], mixed.scores[0], max(each.waited for each in lists), seconds)

    async def close(self) -> None:
        """Stop after the requests in flight."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while self.queue:
            await self._wait_for_requests()
            batch = self._next_batch()
            begin = time.perf_counter()
            try:
                requests, k = [queued.request for queued in batch], max(queued.k for queued in batch)
                ranked = await loop.run_in_executor(self._thread, batch[0].recommender.rank, requests, k)
            except Exception as error:  # raised for the requests; the server continues
                for queued in batch:
                    if not queued.answer.done():
                        queued.answer.set_exception(error)
                continue
            seconds = time.perf_counter() - begin
            self._last_batch = (len(batch), seconds)
            for row, queued in enumerate(batch):
                if not queued.answer.done():
                    items, scores = ranked.items[row, : queued.k], ranked.scores[row, : queued.k]
                    queued.answer.set_result(RankedItems(items, scores, begin - queued.since, seconds))

    async def _wait_for_requests(self) -> None:
        """Wait up to `MAX_DELAY` for as many requests as the last batch had.

        Otherwise clients that repeat requests as soon as they are answered stay split into two half-batches. After a
        batch of one request there is no wait.
        """
        expected, seconds = self._last_batch
        end = time.perf_counter() + MAX_DELAY * seconds
        while len(self.queue) < min(expected, self.batch) and time.perf_counter() < end:
            await asyncio.sleep(TICK)

    def _next_batch(self) -> list[_Queued]:
        """Take the oldest request and those of its kind from the queue."""
        kind = self.queue[0].kind
        batch = [queued for queued in self.queue if queued.kind == kind][: self.batch]
        taken = set(map(id, batch))
        self.queue = deque(queued for queued in self.queue if id(queued) not in taken)
        return batch
