"""Ranking on transformers: requests that wait while the model works are its next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.decode.engine import TransformersEngine
from llmrec.decode.filters import Filter
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.vocabulary import token_ids
from llmrec.serve.ranker import Found

BATCH = 32  # prompts at a time; a larger batch makes everybody wait for the longest
LINGER = 0.1  # of a batch's time, the longest that the next one waits to become as large (results/serve-linger.json)
TICK = 0.0005  # seconds


@dataclass
class _Waiting:
    """A prompt that waits."""

    engine: TransformersEngine
    prompt: list[int]
    width: int
    filter: Filter | None
    answer: asyncio.Future[Found]
    since: float = field(default_factory=time.perf_counter)

    @property
    def kind(self) -> tuple[int, int]:
        """Prompts of one kind may share a batch: one catalogue, one number of beams."""
        return id(self.engine), self.width


class TransformersServing:
    """A model in this process, one batch at a time in a thread of its own."""

    name = "transformers"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int = BATCH) -> None:
        """Use a model.

        Args:
            batch: prompts at a time.
        """
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        self.waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "llmrec-model")
        self._work: asyncio.Task[None] | None = None
        self._last = (0, 0.0)  # requests and seconds of the last batch

    @classmethod
    def open(cls, folder: Path, batch: int = BATCH) -> TransformersServing:
        """Load a model folder.

        Raises:
            ModelError: it is none, or cannot be loaded.
        """
        tokenizer, _ = model_folder.load_words(folder)
        return cls(model_folder.load_model(folder), tokenizer, batch)

    def ranker(self, catalogue: Catalogue) -> _Ranker:
        """See `Engine.ranker`."""
        tokens = token_ids(self.tokenizer, catalogue.tokens)
        return _Ranker(self, TransformersEngine(self.model, catalogue.trie, tokens))

    def add(self, one: _Waiting) -> None:
        """Queue a prompt; must be called in the event loop."""
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
                items, scores = await loop.run_in_executor(self._thread, _rank, batch)
            except Exception as error:  # the requests get it; the server goes on
                _each(batch, error)
                continue
            seconds = time.perf_counter() - begin
            self._last = (len(batch), seconds)
            for row, one in enumerate(batch):
                if not one.answer.done():
                    one.answer.set_result(Found(items[row], scores[row], begin - one.since, seconds))

    async def _gather(self) -> None:
        """Wait a little for as many as there were last time: clients that were just answered and ask again would else
        fall into two half-batches for ever. Where the last batch was one request, nobody waits."""
        expected, seconds = self._last
        end = time.perf_counter() + LINGER * seconds
        while len(self.waiting) < min(expected, self.batch) and time.perf_counter() < end:
            await asyncio.sleep(TICK)

    def _next(self) -> list[_Waiting]:
        """The prompt that has waited longest, and those of its kind behind it."""
        kind = self.waiting[0].kind
        taken = [one for one in self.waiting if one.kind == kind][: self.batch]
        chosen = set(map(id, taken))
        self.waiting = deque(one for one in self.waiting if id(one) not in chosen)
        return taken


class _Ranker:
    """One catalogue on the shared model."""

    def __init__(self, serving: TransformersServing, engine: TransformersEngine) -> None:
        self.serving, self.engine = serving, engine

    async def rank(self, prompt: list[int], width: int, wanted: Filter | None) -> Found:
        """See `Ranker.rank`. A prompt too long is refused alone, before it could spoil a batch."""
        scorer, depth = self.engine.scorer, self.engine.trie.depth
        if len(prompt) + depth > scorer.limit:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and its answer {depth}, but the model's window is "
                f"{scorer.limit}: shorten the query."
            )
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self.serving.add(_Waiting(self.engine, prompt, width, wanted, answer))
        return await answer


def _rank(batch: list[_Waiting]) -> tuple[np.ndarray, np.ndarray]:
    first = batch[0]
    found = first.engine.rank([one.prompt for one in batch], first.width, [one.filter for one in batch], first.width)
    return found.items, found.scores


def _each(batch: list[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)
