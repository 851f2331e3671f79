"""Endpoint plugin that adds llmrec's routes to vLLM's server; vLLM loads it if VLLM_PLUGINS names it.

`llmrec serve` sets VLLM_PLUGINS. vLLM's own routes are not changed and need the same keys.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.datastructures import State
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmrec.contracts import Recommender, Request
from llmrec.decode.generative import EngineFactory, Generative
from llmrec.decode.vllm_engine import AsyncVllmEngine
from llmrec.serve import log_redaction
from llmrec.serve.access import Keys
from llmrec.serve.auth import protect
from llmrec.serve.connections import ConnectionWatchdog, max_connections
from llmrec.serve.dynamic_batching import DynamicBatching, RankedItems
from llmrec.serve.routes import Metrics, Routes
from llmrec.serve.settings import Limits, Settings
from llmrec.serve.state import ConcurrencyLimiter, ServerState

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class Plugin:
    """Plugin of vLLM's entry point group `vllm.endpoint_plugins`."""

    name = "llmrec"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Read the environment that `llmrec serve` sets; a RunError without it."""
        log_redaction.redact_errors()
        log_redaction.limit_repeats()
        self.settings, self.keys = Settings.from_environment(), Keys.from_environment()
        self.limiter = ConcurrencyLimiter(self.settings.limits.concurrency)
        self.routes = Routes(Metrics(), self.keys)
        self._watchdog: asyncio.Task[None] | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes, and the middleware in front of all routes."""
        self.routes.attach(app)
        protect(app, self.settings, self.keys, self.limiter, self.routes.metrics)
        auto.AutoHTTPProtocol = H11Protocol  # uvicorn's default, httptools, has no limit on headers

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Load the run on the engine of the server; a ModelError if the catalogue is of another model."""
        server = await asyncio.to_thread(
            ServerState, self.settings, VllmServerEngine(), lambda folder: async_engines(engine_client), self.limiter
        )
        self.routes.open(server)
        _drain_before_shutdown(engine_client, self.limiter, self.settings)
        self._watchdog = asyncio.create_task(_watch_connections(state, self.settings.limits))


async def _watch_connections(state: State, limits: Limits) -> None:
    """Limit the connections of vLLM's server, which starts after this task."""
    while getattr(state, "server", None) is None:
        await asyncio.sleep(0.1)
    connections = state.server.server_state.connections
    await ConnectionWatchdog(connections, max_connections(limits.connections), limits.read_timeout).run()


def _drain_before_shutdown(llm: Any, limiter: ConcurrencyLimiter, settings: Settings) -> None:
    """Finish requests before vLLM stops its engine, since each of them is a sequence of vLLM's requests."""
    stop = llm.shutdown

    def shutdown(timeout: float | None = None) -> None:
        limiter.closed = True
        end = time.monotonic() + settings.grace
        while limiter.in_flight and time.monotonic() < end:
            time.sleep(0.02)
        stop(timeout=timeout)
        if settings.state is not None:
            shutil.rmtree(settings.state.parent, ignore_errors=True)

    llm.shutdown = shutdown


class VllmServerEngine(DynamicBatching):
    """Rank with language models on the engine of the vLLM server; other recommenders run in this process."""

    name = "vllm"

    async def rank(self, recommender: Recommender, request: Request, k: int) -> RankedItems:
        """See `DynamicBatching.rank`. vLLM schedules the requests of each step, so no time counts as waiting."""
        engine: Any = recommender.engine if isinstance(recommender, Generative) else None
        if not isinstance(recommender, Generative) or not isinstance(engine, AsyncVllmEngine):
            return await super().rank(recommender, request, k)
        begin, prompt, filters = time.perf_counter(), recommender.prompt(request), [recommender.filter(request)]
        ranked = await engine.rank([prompt], k, filters, recommender.n_beams(k))
        return RankedItems(ranked.items[0], ranked.scores[0], 0.0, time.perf_counter() - begin)


def async_engines(llm: AsyncLLM) -> EngineFactory:
    """Engines on the `AsyncLLM` of a server, which has loaded the model."""
    return lambda catalogue, folder, tokens: AsyncVllmEngine(llm, catalogue)  # type: ignore[return-value]  # async
