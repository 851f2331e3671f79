"""The server without vLLM: the same routes over transformers, on FastAPI and uvicorn."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llmrec import __version__
from llmrec.serve import log_redaction
from llmrec.serve.access import Keys, listen
from llmrec.serve.auth import protect
from llmrec.serve.connections import BoundedServer, room
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.routes import Metrics, Routes
from llmrec.serve.schemas import ApiError
from llmrec.serve.settings import Settings
from llmrec.serve.state import ServerState

KEEP_ALIVE = 75  # seconds that an idle connection stays open; longer than the pools of clients keep theirs


def build(settings: Settings, keys: Keys) -> FastAPI:
    """The app, its model loaded; an LlmrecError where the run holds no model, or not its catalogue."""
    log_redaction.redact_errors()
    log_redaction.limit_repeats()
    engine, metrics = DynamicBatching(), Metrics(CollectorRegistry())
    state, routes = ServerState(settings, engine), Routes(metrics, keys)
    routes.open(state)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    app = FastAPI(title="llmrec", version=__version__, lifespan=lifespan)
    routes.attach(app)
    app.add_api_route("/health", lambda: {"status": "ok"}, methods=["GET"], tags=["server"])
    app.add_api_route("/metrics", lambda: _metrics(metrics), methods=["GET"], tags=["server"], response_class=Response)
    app.add_exception_handler(HTTPException, _not_there)
    protect(app, settings, keys, state.limiter, metrics)
    return app


def serve(settings: Settings, keys: Keys, listening: socket.socket, ready: Callable[[], object]) -> None:
    """Serve until told to stop (SIGTERM, Ctrl-C); requests in flight are finished first.

    Args:
        listening: bound to where clients come.
        ready: called when the model is loaded and clients may come.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    app, limits = build(settings, keys), settings.limits
    config = uvicorn.Config(
        app,
        http="h11",  # httptools, which uvicorn takes where it is installed, puts no bound on headers
        log_config=None,  # uvicorn's own wants a standard output and a standard error that are open
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.grace),
        ws="none",
    )
    listen(listening)
    ready()
    BoundedServer(config, room(limits.connections), limits.read_timeout).run(sockets=[listening])


def _metrics(metrics: Metrics) -> Response:
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _not_there(request: Request, error: Exception) -> JSONResponse:
    """A path or method that there is not, as every other refusal."""
    message = "there is no such route here; see /docs."
    if request.url.path in ("/v1/chat/completions", "/v1/completions"):
        message = "this server runs on transformers and only recommends: start it with --engine vllm for chats."
    refused = ApiError(404, message)
    if isinstance(error, HTTPException) and error.status_code == 405:
        other = [route for route in request.app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
        allowed = ", ".join(sorted({method for route in other for method in route.methods}))
        refused = ApiError(405, f"this route takes {allowed}, not the method of the request; see /docs.", Allow=allowed)
    return refused.response(getattr(request.state, "request_id", ""))
