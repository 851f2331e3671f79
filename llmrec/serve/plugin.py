"""Our routes on vLLM's own server: an endpoint plugin, which vLLM loads where VLLM_PLUGINS names it.

`llmrec serve` does so. vLLM's routes stay as they are, behind the same keys.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from argparse import Namespace
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import State
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmrec.serve import docs, logs
from llmrec.serve.connections import Watch, room
from llmrec.serve.door import Door
from llmrec.serve.figures import Figures
from llmrec.serve.gate import Gate
from llmrec.serve.hosts import TrustedHosts
from llmrec.serve.keys import Keys
from llmrec.serve.on_vllm import VllmServerEngine, engines
from llmrec.serve.routes import Routes
from llmrec.serve.settings import Limits, Settings
from llmrec.serve.state import ServerState


class Plugin:
    """What vLLM's entry point group `vllm.endpoint_plugins` asks for."""

    name = "llmrec"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Read what `llmrec serve` left in the environment.

        Raises:
            RunError: it left nothing.
        """
        logs.redact_errors()
        logs.limit_repeats()
        self.settings, self.keys = Settings.from_environment(), Keys.from_environment()
        self.door = Door(self.settings.limits.concurrency)
        self.routes = Routes(Figures(), self.keys)
        self._watch: asyncio.Task[None] | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes, and the gate before all."""
        docs.attach(app)
        self.routes.attach(app)
        settings, keys = self.settings, None if self.settings.without_key else self.keys
        if settings.without_key:
            app.add_middleware(TrustedHosts)
        app.add_middleware(Gate, keys=keys, limits=settings.limits, door=self.door, figures=self.routes.figures)
        auto.AutoHTTPProtocol = H11Protocol  # uvicorn takes httptools otherwise, which puts no bound on headers

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Open the run on the engine of the server.

        Raises:
            LlmrecError: the run's model and catalogue do not belong together.
        """
        opened = await asyncio.to_thread(
            ServerState, self.settings, VllmServerEngine(), lambda folder: engines(engine_client), self.door
        )
        self.routes.open(opened)
        _finish_first(engine_client, self.door, self.settings)
        self._watch = asyncio.create_task(_watch_connections(state, self.settings.limits))


async def _watch_connections(state: State, limits: Limits) -> None:
    """Watch the connections of vLLM's server, which is made after this task."""
    while getattr(state, "server", None) is None:
        await asyncio.sleep(0.1)
    connections = state.server.server_state.connections
    await Watch(connections, room(limits.connections), limits.read_timeout).run()


def _finish_first(llm: Any, door: Door, settings: Settings) -> None:
    """Let requests of ours finish before vLLM stops its engine: one of them is several of vLLM's, one after another."""
    stop = llm.shutdown

    def shutdown(timeout: float | None = None) -> None:
        door.closed = True
        end = time.monotonic() + settings.grace
        while door.inside and time.monotonic() < end:
            time.sleep(0.02)
        stop(timeout=timeout)
        if settings.state is not None:
            shutil.rmtree(settings.state.parent, ignore_errors=True)

    llm.shutdown = shutdown
