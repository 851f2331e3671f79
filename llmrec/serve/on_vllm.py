"""Ranking on the engine of the vLLM server that we are plugged into; its batches hold our rounds and all else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmrec.decode.filters import Filter
from llmrec.decode.vllm_engine import AsyncVllmEngine
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.ranker import Found

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class VllmServing:
    """The engine of a vLLM server."""

    name = "vllm"

    def __init__(self, llm: AsyncLLM) -> None:
        """Use it."""
        self.llm = llm

    def ranker(self, catalogue: Catalogue) -> _Ranker:
        """See `Engine.ranker`."""
        return _Ranker(AsyncVllmEngine(self.llm, catalogue))

    async def close(self) -> None:
        """See `Engine.close`; vLLM closes its engine itself."""


class _Ranker:
    """One catalogue."""

    def __init__(self, engine: AsyncVllmEngine) -> None:
        self.engine = engine

    async def rank(self, prompt: list[int], width: int, wanted: Filter | None) -> Found:
        """See `Ranker.rank`. vLLM schedules each round of its own accord, so nothing is told apart as waiting."""
        begin = time.perf_counter()
        found = await self.engine.rank([prompt], width, [wanted], width)
        return Found(found.items[0], found.scores[0], 0.0, time.perf_counter() - begin)
