"""HTTP clients of servers that answer in JSON: requests that are tried again, and streams of a chat completion.

`HttpClient` is for any such server; `OpenAIClient` for one model of a server with OpenAI's API. Redirects are refused,
since following one would send the key to another address.
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

CONNECT = 5.0  # seconds to wait for a connection at most; for the answer a client waits as long as its `patience`
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses after which a request is sent again
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what a reply of other JSON raises
_MOST = 65536  # bytes read at a time, and of a reply that is an error

T = TypeVar("T")


class NoAnswer(TextError):
    """A server gave no answer that could be read.

    Attributes:
        status: HTTP status of the last try; None where there was no reply, or one that could not be read.
        reply: the first bytes of that reply.
    """

    def __init__(self, message: str, status: int | None = None, reply: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.reply = status, reply


class Nothing(ValueError):
    """A reply without words."""


class HttpClient:
    """Sends requests to one server. May be used by several threads."""

    def __init__(
        self, url: str, key: str | None = None, patience: float = 60.0, tries: int = 5, rest: float = 1.0
    ) -> None:
        """Store an address; nothing is sent yet.

        Args:
            url: such as http://127.0.0.1:8000
            key: sent as a bearer token with every request.
            patience: seconds to wait for an answer, or for the next part of a stream.
            tries: of one request.
            rest: seconds before the second try; they double.

        Raises:
            TextError: the key has characters that a header cannot carry.
        """
        if key and not (key.isascii() and key.isprintable()):  # http.client's own message would show the key
            raise TextError("the API key holds line breaks or characters outside ASCII. Set it again without them.")
        self.url, self.patience, self.tries, self.rest = url.rstrip("/"), patience, tries, rest
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def request(self, path: str, body: dict[str, Any] | None, read: Callable[[bytes], T]) -> tuple[T, int]:
        """Send a request until its reply can be read.

        Args:
            path: behind the server's address, with a slash.
            body: of a POST, as JSON; None for a GET.
            read: takes the reply apart; what it raises for JSON of another shape counts as a failed try.

        Returns:
            What was read, and how many tries it took.

        Raises:
            NoAnswer: the server refuses, stays silent, or cannot be read, after all tries.
        """
        number = 1
        while True:
            try:
                with self._open(path, body) as reply:
                    return read(reply.read()), number
            except NoAnswer as error:
                if number >= self.tries or error.status not in _BUSY | {None}:
                    raise
            time.sleep(self.rest * 2 ** (number - 1))
            number += 1

    def words(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        """The words of a chat completion as the server sends them, one try.

        Raises:
            NoAnswer: the server refuses, stays silent, or breaks off.
        """
        with self._open(path, body | {"stream": True}) as reply:
            for line in _lines(reply):
                text = line.decode(errors="replace")
                if text.startswith("data:"):
                    yield _delta(text.removeprefix("data:").strip())

    @contextlib.contextmanager
    def _open(self, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        """An open reply; whatever goes wrong until it is closed is a `NoAnswer`."""
        try:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(self.url + path, data, self._headers)
            with _OPENER.open(request, timeout=self.patience) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            start = b""
            with contextlib.suppress(OSError, http.client.HTTPException):
                start = error.read(_MOST)
            raise NoAnswer(f"HTTP {error.code}: {start[:300].decode(errors='replace')}", error.code, start) from None
        except Nothing as error:
            raise NoAnswer(str(error)) from None
        except (OSError, http.client.HTTPException, *_UNREADABLE) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error


class OpenAIClient(HttpClient):
    """One model of a server with OpenAI's chat completions. The key is sent only to addresses that the user named."""

    def __init__(self, url: str, model: str, patience: float = 60.0, tries: int = 5, rest: float = 1.0) -> None:
        """Store an address and a model; nothing is sent yet.

        Args:
            url: of the API, such as http://localhost:8000/v1; /v1 is added where it has no path.
            model: the server's name for it.
            patience, tries, rest: as `HttpClient` takes them.
        """
        key = trusted_urls.api_key_for(url)
        whole = url.rstrip("/") if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"
        super().__init__(whole, key, patience, tries, rest)
        self.model = model

    def complete(self, body: dict[str, Any], read: Callable[[Any], T]) -> tuple[T, int]:
        """Send a chat completion until its reply can be read.

        Args:
            body: of the request, without the model's name.
            read: takes the reply's JSON apart; raises `Nothing` for a reply without words.

        Returns:
            What was read, and how many tries it took.

        Raises:
            NoAnswer: as `request`.
        """
        try:
            return self.request(
                "/chat/completions", {"model": self.model, **body}, lambda reply: read(json.loads(reply))
            )
        except NoAnswer as error:
            message = f"{self.url}/chat/completions gave no answer for the model '{self.model}' ({error})."
            raise NoAnswer(message, error.status, error.reply) from error

    def stream(self, body: dict[str, Any]) -> Iterator[str]:
        """The words of a chat completion as they come; see `words`."""
        return self.words("/chat/completions", {"model": self.model, **body})


def _lines(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    """Lines as they arrive; `readline` of http.client would take a connection that breaks off for the end."""
    rest = b""
    while part := reply.read1(_MOST):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    yield rest


def _delta(data: str) -> str:
    """The words of one event of a stream; "" for an event of another kind."""
    try:
        return str(json.loads(data)["choices"][0]["delta"].get("content") or "")
    except _UNREADABLE:
        return ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """No further request, so that a redirect is an error."""


class _Connecting:
    """A connection that waits `CONNECT` seconds to be made, and its whole timeout for what is read."""

    def connect(self: Any) -> None:
        patience, self.timeout = self.timeout, min(self.timeout, CONNECT)
        super().connect()  # type: ignore[misc]  # of http.client's connection, the other parent
        self.sock.settimeout(patience)


class _Http(_Connecting, http.client.HTTPConnection): ...


class _Https(_Connecting, http.client.HTTPSConnection): ...


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, request)


_OPENER = urllib.request.build_opener(_NoRedirect, _Handler)
