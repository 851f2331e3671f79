"""Middleware in front of all routes, also vLLM's: request ids, keys, limits on bodies, and request counts."""

from __future__ import annotations

import re
import uuid

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.serve.access import Keys, TrustedHosts, read_body, replay_body
from llmrec.serve.routes import DOCUMENTATION, Metrics
from llmrec.serve.schemas import ApiError
from llmrec.serve.settings import Limits, Settings
from llmrec.serve.state import ConcurrencyLimiter

# Routes without a key: health checks of load balancers, and the documentation.
PUBLIC = ("/health", "/ping", *DOCUMENTATION)
# vLLM's routes for every key, beside those below /v1/. All others control the server: scaling, aborting requests.
_GENERATE = ("/tokenize", "/detokenize", "/invocations", "/generative_scoring", "/inference/v1/generate")
FOR_EVERY_KEY = ("/version", "/metrics", "/load", *_GENERATE)
OTHER = "other"  # label of paths without a route, in the metrics
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # others would be labels in vLLM's metrics
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AuthMiddleware:
    """ASGI middleware that checks requests before they reach a route, and counts responses."""

    def __init__(
        self, app: ASGIApp, keys: Keys | None, limits: Limits, limiter: ConcurrencyLimiter, metrics: Metrics
    ) -> None:
        """Wrap an app; without `keys` no key is required, and after `limiter.closed` all requests are refused."""
        self.app, self.keys, self.limits, self.limiter, self.metrics = app, keys, limits, limiter, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket" and not self._has_key(scope):
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return
        request_id, route = _request_id(scope), _route(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        send = self._with_request_id(send, route, request_id)
        try:
            self._check(scope, route)
            with_body = receive if _path(scope) in PUBLIC else await self._body(scope, receive)
        except ApiError as error:
            await error.response(request_id)(scope, receive, send)
            return
        if with_body is not None:
            await self.app(scope, with_body, send)

    def _has_key(self, scope: Scope, admin: bool = False) -> bool:
        return self.keys is None or self.keys.accept(_header(scope, b"authorization"), admin)

    def _check(self, scope: Scope, route: str) -> None:
        """Check the method, the key, that the server is not stopping, and that a proxy cannot misread the framing."""
        if scope["method"] not in METHODS:
            raise ApiError(405, "this server takes no such method; see /docs.", Connection="close")
        if _path(scope) in PUBLIC:
            return
        if not self._has_key(scope):
            message = "send the server's key: `Authorization: Bearer KEY`."
            raise ApiError(401, message, WWW_Authenticate="Bearer", Connection="close")
        for_every_key = route in (OTHER, *FOR_EVERY_KEY) or route.startswith("/v1/")
        if not for_every_key and not self._has_key(scope, admin=True):
            raise ApiError(
                403, "this route needs the admin's key: start the server with LLMREC_ADMIN_KEY, and send that key."
            )
        if self.limiter.closed:
            raise ApiError(503, "the server is stopping: ask again in a moment.", Retry_After="5", Connection="close")
        if _header(scope, b"content-length") is not None and _header(scope, b"transfer-encoding") is not None:
            raise ApiError(
                400, "a request has `Content-Length` or `Transfer-Encoding`, not both: send one.", Connection="close"
            )

    async def _body(self, scope: Scope, receive: Receive) -> Receive | None:
        """Read the body within the limits; return the `receive` of the route, or None if the client disconnects."""
        length = _header(scope, b"content-length")
        if length is None and _header(scope, b"transfer-encoding") is None:
            return receive
        if length is not None and not re.fullmatch("[0-9]{1,15}", length):
            raise ApiError(400, "`Content-Length` is not the number of bytes of the body.", Connection="close")
        remedy = (
            ": send fewer requests at a time, or only the newest items, or start the server with a larger --max-body"
        )
        if int(length or 0) > self.limits.body:
            raise ApiError(413, f"the body has more than {self.limits.body} bytes{remedy}.", Connection="close")
        body = await read_body(receive, self.limits.body, self.limits.read_timeout, remedy)
        return None if body is None else replay_body(body, receive)

    def _with_request_id(self, send: Send, route: str, request_id: str) -> Send:
        """A `send` that counts the response and adds the request id to it."""

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(route, message["status"]).inc()
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*others, (b"x-request-id", request_id.encode())]}
            await send(message)

        return with_id


def protect(app: FastAPI, settings: Settings, keys: Keys, limiter: ConcurrencyLimiter, metrics: Metrics) -> None:
    """Add the middleware to an app; if no key is required, also refuse requests from pages of other sites."""
    if settings.without_key:
        app.add_middleware(TrustedHosts)
    required = None if settings.without_key else keys
    app.add_middleware(AuthMiddleware, keys=required, limits=settings.limits, limiter=limiter, metrics=metrics)


def _route(scope: Scope) -> str:
    """The path template of a request's route, `OTHER` for none."""
    for route in scope["app"].routes:
        match, child = route.matches(scope)
        if match is not Match.NONE:
            return str(getattr(child.get("route", route), "path", OTHER))
    return OTHER


def _path(scope: Scope) -> str:
    """The path without the prefix of a proxy (vLLM's --root-path)."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _request_id(scope: Scope) -> str:
    """The client's request id if it is harmless, else a new one."""
    request_id = _header(scope, b"x-request-id")
    return request_id if request_id and _ID.fullmatch(request_id) else uuid.uuid4().hex


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
