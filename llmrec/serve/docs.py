"""/docs and /openapi.json: every route of the server, on a page whose parts all come from this server."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Response

PARTS = {"/docs": ("docs.html", "text/html"), "/docs/docs.js": ("docs.js", "text/javascript")}
SCHEMA = "/openapi.json"
DOCUMENTATION = (*PARTS, SCHEMA)
_REPLACED = {*DOCUMENTATION, "/redoc", "/docs/oauth2-redirect"}  # FastAPI's own pages load scripts from other hosts
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def attach(app: FastAPI) -> None:
    """Add the documentation of an app's routes to it, in place of what FastAPI or vLLM has there.

    The schema is made when it is first asked for, so that routes that are added later are in it, and kept.
    """
    if app.openapi_url is None:  # vLLM's --disable-fastapi-docs
        return
    app.router.routes[:] = [route for route in app.routes if getattr(route, "path", "") not in _REPLACED]

    @cache
    def schema() -> bytes:
        if app.root_path and not app.servers:
            app.servers = [{"url": app.root_path}]
        return json.dumps(app.openapi()).encode()

    _add(app, SCHEMA, schema, "application/json")
    for path, (name, kind) in PARTS.items():
        _add(app, path, cache((Path(__file__).parent / "page" / name).read_bytes), kind)


def _add(app: FastAPI, path: str, content: Callable[[], bytes], kind: str) -> None:
    def route() -> Response:
        return Response(content(), media_type=kind, headers=_HEADERS)

    app.router.add_api_route(path, route, methods=["GET"], include_in_schema=False)
