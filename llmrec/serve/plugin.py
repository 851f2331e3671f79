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

from llmrec.serve import unquoted
from llmrec.serve.door import Door
from llmrec.serve.figures import Figures
from llmrec.serve.gate import Gate
from llmrec.serve.keys import Keys
from llmrec.serve.on_vllm import VllmServing
from llmrec.serve.routes import Routes
from llmrec.serve.settings import Settings
from llmrec.serve.shop import Shop


class Plugin:
    """What vLLM's entry point group `vllm.endpoint_plugins` asks for."""

    name = "llmrec"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        """Read what `llmrec serve` left in the environment.

        Raises:
            RunError: it left nothing.
        """
        unquoted.install()
        self.settings, self.keys = Settings.from_environment(), Keys.from_environment()
        self.door = Door(self.settings.limits.concurrency)
        self.routes = Routes(Figures(), self.keys)

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes, and the gate before all."""
        self.routes.attach(app)
        keys = None if self.settings.without_key else self.keys
        app.add_middleware(Gate, keys=keys, body=self.settings.limits.body, door=self.door)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Open the shop on the engine of the server.

        Raises:
            LlmrecError: the run's model and catalogue do not belong together.
        """
        shop = await asyncio.to_thread(Shop, self.settings, VllmServing(engine_client), self.door)
        self.routes.open(shop)
        _finish_first(engine_client, self.door, self.settings)


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
