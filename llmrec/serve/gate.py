"""The gate before every route, vLLM's own too: request ids, keys, bodies of bounded size, and a way to close it."""

from __future__ import annotations

import re
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.serve.door import Door
from llmrec.serve.keys import Keys
from llmrec.serve.refused import Refused

OPEN = ("/health", "/ping")  # what load balancers ask without a key: they tell nothing but that the server lives
OURS = ("/v1/recommendations", "/v1/catalogue", "/v1/items", "/version")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, keys: Keys | None, body: int, door: Door) -> None:
        """Stand before an app.

        Args:
            keys: None asks nobody.
            body: bytes that a body of our routes may have.
            door: closed when the server stops.
        """
        self.app, self.keys, self.limit, self.door = app, keys, body, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket" and self.keys and not self.keys.opens(_header(scope, b"authorization")):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        try:
            self._check(scope)
            if _path(scope) in OURS and scope["method"] == "POST":
                receive = await self._body(scope, receive)
        except Refused as refused:
            await _refuse(send, refused, request_id)
            return
        await self.app(scope, receive, _named(send, request_id))

    def _check(self, scope: Scope) -> None:
        """Keys, and whether the server still takes requests."""
        if _path(scope) in OPEN:
            return
        if self.keys and not self.keys.opens(_header(scope, b"authorization")):
            raise Refused(
                401,
                "show the server's key: `Authorization: Bearer KEY`.",
                WWW_Authenticate="Bearer",
                Connection="close",
            )
        if self.door.closed:
            raise Refused(503, "the server is stopping: ask again in a moment.", Retry_After="5", Connection="close")

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body before the route does; it is refused as soon as it is too large, whatever was announced."""
        announced = _header(scope, b"content-length") or "0"
        if announced.isdigit() and int(announced) > self.limit:
            raise self._too_large()
        parts: list[bytes] = []
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            length, more = length + len(parts[-1]), message.get("more_body", False)
            if length > self.limit:
                raise self._too_large()
        return _replay(b"".join(parts), receive)

    def _too_large(self) -> Refused:
        return Refused(
            413,
            f"the body has more than {self.limit} bytes: send fewer requests at a time, or only the newest items.",
            Connection="close",
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _named(send: Send, request_id: str) -> Send:
    async def with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*others, (b"x-request-id", request_id.encode())]}
        await send(message)

    return with_id


async def _refuse(send: Send, refused: Refused, request_id: str) -> None:
    body, headers = refused.raw(request_id)
    named = _named(send, request_id)
    await named({"type": "http.response.start", "status": refused.status, "headers": headers})
    await named({"type": "http.response.body", "body": body})


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
