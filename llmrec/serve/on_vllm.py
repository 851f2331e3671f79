"""Ranking on the engine of the vLLM server that we are plugged into; its batches hold our rounds and all else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmrec.contracts import Recommender, Request
from llmrec.decode.generative import EngineFactory, Generative
from llmrec.decode.vllm_engine import AsyncVllmEngine
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.ranker import RankedItems, Ranker

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class VllmServerEngine(DynamicBatching):
    """The engine of a vLLM server ranks by language models; other recommenders run in this process."""

    name = "vllm"

    def ranker(self, recommender: Recommender) -> Ranker:
        """See `Engine.ranker`."""
        if isinstance(recommender, Generative) and isinstance(recommender.engine, AsyncVllmEngine):
            return _Ranker(recommender, recommender.engine)
        return super().ranker(recommender)


class _Ranker:
    """One catalogue."""

    def __init__(self, recommender: Generative, engine: AsyncVllmEngine) -> None:
        self.recommender, self.engine = recommender, engine

    async def rank(self, request: Request, k: int) -> RankedItems:
        """See `Ranker.rank`. vLLM schedules each round of its own accord, so nothing is told apart as waiting."""
        begin, own = time.perf_counter(), self.recommender
        width = own.width(k)
        ranked = await self.engine.rank([own.prompt(request)], k, [own.filter(request)], width)
        return RankedItems(ranked.items[0], ranked.scores[0], 0.0, time.perf_counter() - begin)


def engines(llm: AsyncLLM) -> EngineFactory:
    """Engines on a server's `AsyncLLM`, which has loaded the model already."""
    return lambda catalogue, folder, tokens: AsyncVllmEngine(llm, catalogue)  # type: ignore[return-value]  # async
