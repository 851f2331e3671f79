"""The server without vLLM: the same routes on transformers, FastAPI and uvicorn."""

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
from llmrec.serve.connections import BoundedServer, max_connections
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.routes import Metrics, Routes
from llmrec.serve.schemas import ApiError
from llmrec.serve.settings import Settings
from llmrec.serve.state import ServerState

KEEP_ALIVE = 75  # seconds that an idle connection stays open; longer than in connection pools of clients


def build(settings: Settings, keys: Keys) -> FastAPI:
    """Load the model and build the app; an LlmrecError if the run has no model, or not its catalogue."""
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

    def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/metrics", prometheus, methods=["GET"], tags=["server"], response_class=Response)
    app.add_exception_handler(HTTPException, _not_found)
    protect(app, settings, keys, state.limiter, metrics)
    return app


def serve(settings: Settings, keys: Keys, bound: socket.socket, ready: Callable[[], object]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are finished first.

    Args:
        bound: socket to listen on.
        ready: called when the model is loaded and clients are accepted.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    app, limits = build(settings, keys), settings.limits
    config = uvicorn.Config(
        app,
        http="h11",  # uvicorn's default, httptools, has no limit on headers
        log_config=None,  # uvicorn's default needs an open standard output and standard error
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.grace),
        ws="none",
    )
    listen(bound)
    ready()
    BoundedServer(config, max_connections(limits.connections), limits.read_timeout).run(sockets=[bound])


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown path or method with an `ErrorResponse`."""
    message = "there is no such route here; see /docs."
    if request.url.path in ("/v1/chat/completions", "/v1/completions"):
        message = "this server runs on transformers and only recommends: start it with --engine vllm for chats."
    refusal = ApiError(404, message)
    if isinstance(error, HTTPException) and error.status_code == 405:
        partial = [route for route in request.app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
        allowed = ", ".join(sorted({method for route in partial for method in route.methods}))
        refusal = ApiError(405, f"this route takes {allowed}, not the method of the request; see /docs.", Allow=allowed)
    return refusal.response(getattr(request.state, "request_id", ""))
