"""The server without vLLM: the same routes over transformers, on FastAPI and uvicorn."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from llmrec import __version__
from llmrec.serve import unquoted
from llmrec.serve.batches import TransformersServing
from llmrec.serve.figures import Figures
from llmrec.serve.gate import Gate
from llmrec.serve.keys import Keys
from llmrec.serve.refused import Refused
from llmrec.serve.routes import Routes
from llmrec.serve.settings import Settings
from llmrec.serve.shop import Shop

KEEP_ALIVE = 75  # seconds that an idle connection stays open; longer than the pools of clients keep theirs


def build(settings: Settings, keys: Keys) -> FastAPI:
    """The app, its model loaded.

    Raises:
        LlmrecError: the run holds no model, or its catalogue does not belong to it.
    """
    unquoted.install()
    engine = TransformersServing.open(settings.model)
    shop, figures = Shop(settings, engine), Figures(CollectorRegistry())
    routes = Routes(figures, keys)
    routes.open(shop)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    app = FastAPI(title="llmrec", version=__version__, lifespan=lifespan)
    routes.attach(app)
    app.add_api_route("/health", lambda: {"status": "ok"}, methods=["GET"], tags=["server"])
    app.add_api_route("/metrics", lambda: _metrics(figures), methods=["GET"], tags=["server"], response_class=Response)
    app.add_exception_handler(HTTPException, _not_there)
    app.add_middleware(Gate, keys=None if settings.without_key else keys, body=settings.limits.body, door=shop.door)
    return app


def serve(settings: Settings, keys: Keys, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until told to stop (SIGTERM, Ctrl-C); requests in flight are finished first.

    Args:
        listening: bound to where clients come.
        ready: called when the model is loaded and clients may come.

    Raises:
        LlmrecError: see `build`.
    """
    app = build(settings, keys)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.grace),
        ws="none",
    )
    listening.listen()
    ready()
    uvicorn.Server(config).run(sockets=[listening])


def _metrics(figures: Figures) -> Response:
    return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)


async def _not_there(request: Request, error: Exception) -> JSONResponse:
    """A path or method that there is not, as every other refusal."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = "there is no such route here; see /docs."
    if status == 405:
        message = f"this route does not take {request.method}; see /docs."
    if request.url.path in ("/v1/chat/completions", "/v1/completions"):
        message = "this server runs on transformers and only recommends: start it with --engine vllm for chats."
    refused = Refused(404, message)
    body = refused.body(getattr(request.state, "request_id", ""))
    body["error"]["code"] = status
    return JSONResponse(body, status)
