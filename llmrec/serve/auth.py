"""Middleware before every route, vLLM's own too: request ids, keys, bodies bounded in size and time, and counting."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.serve.access import Keys, TrustedHosts
from llmrec.serve.routes import DOCUMENTATION, Metrics
from llmrec.serve.schemas import ApiError
from llmrec.serve.settings import Limits, Settings
from llmrec.serve.state import ConcurrencyLimiter

# Open without a key: what load balancers ask, which says only that the server lives, and what says how to ask.
OPEN = ("/health", "/ping", *DOCUMENTATION)
# vLLM's routes that any key opens, beside those below /v1/. What is left steers the server: scaling, aborting requests.
_GENERATE = ("/tokenize", "/detokenize", "/invocations", "/generative_scoring", "/inference/v1/generate")
SHARED = ("/version", "/metrics", "/load", *_GENERATE)
OTHER = "other"  # in the metrics, paths that no route has
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # others would be labels in vLLM's metrics
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AuthMiddleware:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, keys: Keys | None, limits: Limits, limiter: ConcurrencyLimiter, metrics: Metrics
    ) -> None:
        """Wrap an app; without `keys` every request passes, and once the door is closed none does."""
        self.app, self.keys, self.limits, self.limiter, self.metrics = app, keys, limits, limiter, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket" and self.keys and not self.keys.opens(_header(scope, b"authorization")):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        request_id, route = _request_id(scope), _route(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        send = self._finished(send, route, request_id)
        try:
            self._check(scope, route)
            with_body = receive if _path(scope) in OPEN else await self._body(scope, receive)
        except ApiError as refused:
            await refused.response(request_id)(scope, receive, send)
            return
        if with_body is not None:
            await self.app(scope, with_body, send)

    def _check(self, scope: Scope, route: str) -> None:
        """Methods, keys, whether the server still takes requests, and framing that a proxy might read otherwise."""
        if scope["method"] not in METHODS:
            raise ApiError(405, "this server takes no such method; see /docs.", Connection="close")
        if _path(scope) in OPEN:
            return
        if self.keys and not self.keys.opens(_header(scope, b"authorization")):
            raise ApiError(
                401,
                "show the server's key: `Authorization: Bearer KEY`.",
                WWW_Authenticate="Bearer",
                Connection="close",
            )
        free = route in (OTHER, *SHARED) or route.startswith("/v1/")
        if self.keys and not free and not self.keys.opens(_header(scope, b"authorization"), admin=True):
            raise ApiError(
                403, "only the admin's key opens this route: start the server with LLMREC_ADMIN_KEY, and show it."
            )
        if self.limiter.closed:
            raise ApiError(503, "the server is stopping: ask again in a moment.", Retry_After="5", Connection="close")
        if _header(scope, b"content-length") is not None and _header(scope, b"transfer-encoding") is not None:
            raise ApiError(
                400, "a request has `Content-Length` or `Transfer-Encoding`, not both: send one.", Connection="close"
            )

    async def _body(self, scope: Scope, receive: Receive) -> Receive | None:
        """Read the body before the route does: none may be larger, or take longer, than the limits say.

        Returns the `receive` of the route, or None where the client went before the body was whole.
        """
        announced = _header(scope, b"content-length")
        if announced is None and _header(scope, b"transfer-encoding") is None:
            return receive
        if announced is not None and not re.fullmatch("[0-9]{1,15}", announced):
            raise ApiError(400, "`Content-Length` is not the number of bytes of the body.", Connection="close")
        if int(announced or 0) > self.limits.body:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.limits.read_timeout):
                body = await self._read(receive)
        except TimeoutError:
            message = f"the body was not there within {self.limits.read_timeout:g} s: send it again."
            raise ApiError(408, message, Connection="close") from None
        return None if body is None else _replay(body, receive)

    async def _read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            length, more = length + len(parts[-1]), message.get("more_body", False)
            if length > self.limits.body:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body has more than {self.limits.body} bytes: send fewer requests at a time, or only the newest "
            "items, or start the server with a larger --max-body.",
            Connection="close",
        )

    def _finished(self, send: Send, route: str, request_id: str) -> Send:
        """Send that counts the response and names it."""

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(route, message["status"]).inc()
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*others, (b"x-request-id", request_id.encode())]}
            await send(message)

        return with_id


def protect(app: FastAPI, settings: Settings, keys: Keys, limiter: ConcurrencyLimiter, metrics: Metrics) -> None:
    """Put the gate before all routes of an app; where no key is asked for, requests from pages of other sites fail."""
    if settings.without_key:
        app.add_middleware(TrustedHosts)
    protecting = None if settings.without_key else keys
    app.add_middleware(AuthMiddleware, keys=protecting, limits=settings.limits, limiter=limiter, metrics=metrics)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _route(scope: Scope) -> str:
    """The route that a request is for, without what stands in its place holders; all that have none are one."""
    for route in scope["app"].routes:
        match, child = route.matches(scope)
        if match is not Match.NONE:
            return str(getattr(child.get("route", route), "path", OTHER))
    return OTHER


def _path(scope: Scope) -> str:
    """The path below the one that a proxy in front took off (vLLM's --root-path)."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _request_id(scope: Scope) -> str:
    """The client's own where it is harmless, else a new one."""
    given = _header(scope, b"x-request-id")
    return given if given and _ID.fullmatch(given) else uuid.uuid4().hex


def _header(scope: Any, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None
