"""HTTP clients: requests with retries and streamed chat completions, for any JSON server and for OpenAI's API.

Redirects are errors, since following one would send the API key to another address.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llmrec import trusted_urls
from llmrec.errors import TextError

CONNECT_TIMEOUT = 5.0  # seconds to wait for a connection; the client's `timeout` is for the reply
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}  # HTTP statuses after which a request is sent again
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # from replies of another shape
_CHUNK = 65536  # bytes read at a time, and of an error reply

T = TypeVar("T")


class ReplyError(TextError):
    """A server sent no reply, an error, or one that cannot be read.

    Attributes:
        status: HTTP status of the last try; None where there was no reply, or one that could not be read.
        reply: the first bytes of that reply.
    """

    def __init__(self, message: str, status: int | None = None, reply: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.reply = status, reply


class EmptyReply(ValueError):
    """A reply without text."""


class HttpClient:
    """Client of one server; thread-safe."""

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 60.0, tries: int = 5, backoff: float = 1.0
    ) -> None:
        """Store the address; nothing is sent yet.

        Args:
            url: such as http://127.0.0.1:8000
            key: sent as a bearer token with every request.
            timeout: seconds to wait for a reply, or for the next part of a stream.
            tries: attempts at one request, at most.
            backoff: seconds before the second try; doubled before each further one.

        Raises:
            TextError: the key has characters that a header cannot carry.
        """
        if key and not (key.isascii() and key.isprintable()):  # http.client's own message would show the key
            raise TextError("the API key holds line breaks or characters outside ASCII. Set it again without them.")
        self.url, self.timeout, self.tries, self.backoff = url.rstrip("/"), timeout, tries, backoff
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def request(self, path: str, body: dict[str, Any] | None, read: Callable[[bytes], T]) -> tuple[T, int]:
        """Send a request, with retries, until its reply can be read.

        Args:
            path: after the server's address, with a slash.
            body: of a POST, as JSON; None for a GET.
            read: parses the reply; an exception for JSON of another shape counts as a failed try.

        Returns:
            The result of `read`, and the number of tries.

        Raises:
            ReplyError: the last try failed, or the error is not one that a retry helps.
        """
        number = 1
        while True:
            try:
                with self._open(path, body) as reply:
                    return read(reply.read()), number
            except ReplyError as error:
                if number >= self.tries or error.status not in _RETRIED | {None}:
                    raise
            time.sleep(self.backoff * 2 ** (number - 1))
            number += 1

    def stream_text(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        """Yield the text of a chat completion in parts, as the server sends them; no retry.

        Raises:
            ReplyError: the server refuses, does not reply in time, or breaks off.
        """
        with self._open(path, body | {"stream": True}) as reply:
            for line in _lines(reply):
                text = line.decode(errors="replace")
                if text.startswith("data:"):
                    yield _delta(text.removeprefix("data:").strip())

    @contextlib.contextmanager
    def _open(self, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        """Open a reply; every error until it is closed becomes a `ReplyError`."""
        try:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(self.url + path, data, self._headers)
            with _OPENER.open(request, timeout=self.timeout) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            start = b""
            with contextlib.suppress(OSError, http.client.HTTPException):
                start = error.read(_CHUNK)
            raise ReplyError(f"HTTP {error.code}: {start[:300].decode(errors='replace')}", error.code, start) from None
        except EmptyReply as error:
            raise ReplyError(str(error)) from None
        except (OSError, http.client.HTTPException, *_UNREADABLE) as error:
            raise ReplyError(f"{type(error).__name__}: {error}") from error


class OpenAIClient(HttpClient):
    """Client of one model of a server with OpenAI's API. The API key is sent only to addresses that the user named."""

    def __init__(self, url: str, model: str, timeout: float = 60.0, tries: int = 5, backoff: float = 1.0) -> None:
        """Store the address and the model; nothing is sent yet.

        Args:
            url: of the API, such as http://localhost:8000/v1; /v1 is added where it has no path.
            model: the server's name for it.
            timeout, tries, backoff: as for `HttpClient`.
        """
        address = url.rstrip("/") if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"
        super().__init__(address, trusted_urls.api_key_for(url), timeout, tries, backoff)
        self.model = model

    def complete(self, body: dict[str, Any], read: Callable[[Any], T]) -> tuple[T, int]:
        """Request a chat completion, with retries; returns and raises as `request`.

        Args:
            body: of the request, without the model's name.
            read: parses the reply's JSON; raises `EmptyReply` for a reply without text.
        """
        whole = {"model": self.model, **body}
        try:
            return self.request("/chat/completions", whole, lambda reply: read(json.loads(reply)))
        except ReplyError as error:
            message = f"{self.url}/chat/completions gave no answer for the model '{self.model}' ({error})."
            raise ReplyError(message, error.status, error.reply) from error

    def stream(self, body: dict[str, Any]) -> Iterator[str]:
        """Yield the text of a chat completion in parts; see `stream_text`."""
        return self.stream_text("/chat/completions", {"model": self.model, **body})


def _lines(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    """Lines as they arrive; `readline` of http.client would treat a broken connection as the end."""
    rest = b""
    while part := reply.read1(_CHUNK):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    yield rest


def _delta(data: str) -> str:
    """Text of one event of a stream; "" for an event of another kind."""
    try:
        return str(json.loads(data)["choices"][0]["delta"].get("content") or "")
    except _UNREADABLE:
        return ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """No further request, so that a redirect is an error."""


class _ConnectTimeout:
    """A connection with `CONNECT_TIMEOUT` to connect, and its own timeout to read."""

    def connect(self: Any) -> None:
        timeout, self.timeout = self.timeout, min(self.timeout, CONNECT_TIMEOUT)
        super().connect()  # type: ignore[misc]  # of http.client's connection, the other parent
        self.sock.settimeout(timeout)


class _Http(_ConnectTimeout, http.client.HTTPConnection): ...


class _Https(_ConnectTimeout, http.client.HTTPSConnection): ...


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, request)


_OPENER = urllib.request.build_opener(_NoRedirect, _Handler)
