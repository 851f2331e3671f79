"""Who may ask the page, and for what: a few of the paths of Gradio's server, and calls that carry plain text alone."""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.errors import ChatError
from llmrec.serve.access import is_loopback, read_body, replay_body
from llmrec.serve.schemas import ApiError

LOGIN = "LLMREC_PAGE_LOGIN"
SHORTEST = 8  # characters of a password
PAUSE = 0.2  # seconds
BODY = 2**16  # bytes
TEXT = 10_000  # characters of an input
UNREAD = 300  # answers that a session may leave unread
STREAMS = 2  # connections that read the answers of one session: a new one, and one that was lost
PATIENCE = 20.0  # seconds in which a body must have come
JOIN, DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"

QUERY = "session_hash="

Streams = Counter[str]  # session → how many connections read its answers
_SESSION = re.compile(r"[a-z0-9]{4,32}")
_FILES = re.compile(  # of Gradio's own package, none of whose names begins with a dot; app_id is for reconnecting
    r"/|/gradio_api/app_id|/theme\.css|/favicon\.ico|/(?:assets|static)(?:/[\w@+-]+(?:\.[\w@+-]+)*)+", re.ASCII
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
}


def login_of(text: str | None) -> tuple[str, str] | None:
    """Name and password of a page's login.

    Args:
        text: NAME:PASSWORD, as `LOGIN` holds it; None or empty for no login.

    Raises:
        ChatError: it is something else, or the password is short.
    """
    name, _, password = (text or "").strip().partition(":")
    if text and (not name.strip() or len(password) < SHORTEST):
        raise ChatError(f"{LOGIN} must be NAME:PASSWORD, with a password of {SHORTEST} characters or more.")
    return (name.strip(), password) if text else None


def check_host(host: str, login: tuple[str, str] | None) -> None:
    """Refuse to show a page without a login to a network.

    Raises:
        ChatError: the host is not this machine alone, and there is no login.
    """
    if login is None and not is_loopback(host):
        raise ChatError(
            f"--host {host} shows the page to the network, so it needs a login: set {LOGIN}=NAME:PASSWORD in the "
            "environment, or leave --host out."
        )


def checker(login: tuple[str, str]) -> Callable[[str, str], bool]:
    """A check of name and password that takes at most 1 / `PAUSE` guesses a second from all clients together.

    For `PAUSE` seconds after a wrong password none is right.
    """
    closed_until = 0.0

    def check(name: str, password: str) -> bool:
        nonlocal closed_until
        now = time.monotonic()
        given, right = ("\0".join(one).encode(errors="replace") for one in ((name, password), login))
        if now < closed_until or not secrets.compare_digest(given, right):
            closed_until = closed_until if now < closed_until else now + PAUSE
            return False
        return True

    return check


class PageGuard:
    """ASGI middleware with a list of what is allowed; all else is answered 404, whatever Gradio adds or opens.

    Args:
        inputs: id of each function of the page → how many inputs it has; each is a text or nothing.
        unread: how many answers wait to be read by a session; None where none wait and none will come.
        streams: is kept up to date.
        login: whether there is one, so that its form may be sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        inputs: Mapping[int, int],
        unread: Callable[[str], int | None],
        streams: Streams,
        login: bool,
    ) -> None:
        self.app, self.inputs, self.unread = app, inputs, unread
        self.streams, self.login = streams, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, made anew, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            send = _with_headers(send)
            try:
                scope, receive = await self._checked(scope, receive)
            except ApiError as refused:
                await refused.response(uuid.uuid4().hex)(scope, receive, send)
                return
            session = scope["query_string"].decode().removeprefix(QUERY)  # empty but for a stream of answers
            self.streams[session] += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.streams[session] -= 1
                if not self.streams[session]:
                    del self.streams[session]

    async def _checked(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """A request with nothing in it that was not checked."""
        method, path = scope["method"], scope["path"]
        query, headers = b"", scope["headers"]
        if method == "POST" and path == JOIN:
            body = self._call(headers, await read_body(receive, BODY, PATIENCE) or b"")
            drop = (b"content-length", b"content-type", b"transfer-encoding", b"content-encoding")
            own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            headers, receive = [*(pair for pair in headers if pair[0] not in drop), *own], replay_body(body, receive)
        elif method == "POST" and path == "/login" and self.login:
            receive = replay_body(await read_body(receive, BODY, PATIENCE) or b"", receive)
        elif method == "GET" and path == DATA:
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
            if not _SESSION.fullmatch(session) or self.unread(session) is None:
                raise ApiError(404, "no answers will come for this session: load the page again.")
            query = f"{QUERY}{session}".encode()
            if self.streams[session] >= STREAMS:
                raise ApiError(429, "the answers of this session are read already.", Retry_After="1")
        elif method not in ("GET", "HEAD") or not _FILES.fullmatch(path):
            raise ApiError(404, "the page has nothing under this path.")
        return {**scope, "query_string": query, "headers": headers}, receive

    def _call(self, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
        """The body of a call with nothing in it but the function, its inputs and the session."""
        kind = next((value.decode("latin-1") for key, value in headers if key == b"content-type"), "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "send JSON, as content-type application/json.")
        try:
            call = json.loads(body.decode())
            data, function, session = call["data"], call["fn_index"], call["session_hash"]
            made = {"data": data, "fn_index": function, "session_hash": session}
            encoded = json.dumps(made, ensure_ascii=False).encode()
        except (ValueError, KeyError, TypeError, RecursionError):  # of UnicodeError, which is a ValueError, too
            raise ApiError(400, "the body is no call of the page.") from None
        if type(function) is not int or function not in self.inputs:
            raise ApiError(404, "the page has no such function: load it again.")
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise ApiError(422, "`session_hash` is not a name that a browser chooses.", "session_hash")
        if not isinstance(data, list) or len(data) != self.inputs[function] or not all(map(_plain, data)):
            raise ApiError(422, f"`data` takes {self.inputs[function]} texts of {TEXT} characters at most.", "data")
        if (self.unread(session) or 0) >= UNREAD:
            raise ApiError(429, "this session does not read its answers.", Retry_After="5")
        return encoded


def _plain(value: Any) -> bool:
    """Whether an input is a text of bounded length, or nothing."""
    return value is None or (isinstance(value, str) and len(value) <= TEXT)


def _with_headers(send: Send) -> Send:
    own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", []) if pair[0].lower().decode("latin-1") not in _HEADERS]
            message = {**message, "headers": [*others, *own]}
        await send(message)

    return with_headers
