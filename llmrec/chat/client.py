"""A client of the HTTP API of `llmrec serve`, and such a server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmrec.chat.store import CatalogueItem, Store
from llmrec.child_process import ChildProcess
from llmrec.errors import ChatError
from llmrec.text.client import HttpClient, ReplyError

KEY = "LLMREC_API_KEY"
GRACE = 40.0  # seconds that a server may take to finish requests after it was told to stop
PATIENCE = 300  # seconds until a server must answer; vLLM loads for half a minute
TRIES, REST = 3, 0.3  # before a server counts as down; seconds between them, doubling
_DOWN = {None, 429, 502, 503, 504}  # statuses of a server that is not there or busy


class ServerDown(ChatError):
    """The server does not answer."""


class Declined(ChatError):
    """The server answers, and not with what was asked; `param` is the field of the request that it is about."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Recommended(NamedTuple):
    """Item ids with log-probabilities, best first, and what ranked them: model or popularity."""

    items: list[tuple[str, float]]
    ranked_by: str


class Client:
    """One server. Its methods raise `ServerDown` where nothing answers, and `Declined`.

    Args:
        url: such as http://127.0.0.1:8000
        patience: seconds to wait for an answer.
        rest: seconds before the second try; they double.
    """

    def __init__(self, url: str, api_key: str | None = None, patience: float = 60.0, rest: float = REST) -> None:
        self._http = HttpClient(url, api_key, patience, TRIES, rest)
        self.url = self._http.url

    def version(self) -> dict[str, Any]:
        """What is running there: at least `model` and `catalogue`."""
        reply = self._request("/version")
        with self._expected():
            return reply | {name: _text(reply[name]) for name in ("model", "catalogue")}

    def store(self) -> Store:
        """The whole catalogue."""
        items: list[CatalogueItem] = []
        while True:
            page = self._request(f"/v1/items?start={len(items)}&limit=1000")
            with self._expected():
                items += [
                    CatalogueItem(_text(one["item_id"]), _text(one["title"]), _text(one["code"]), dict(one["columns"]))
                    for one in page["items"]
                ]
                if len(items) >= page["total"] or not page["items"]:
                    return Store(_text(page["catalogue"]), items)

    def recommend(self, history: Sequence[str], k: int, **more: Any) -> Recommended:
        """Items after a history, and none of it.

        Args:
            more: further fields of the request: allow, deny, where, query.
        """
        reply = self._request("/v1/recommendations", {"history": list(history), "k": k, "exclude_seen": True} | more)
        with self._expected():
            items = [(_text(one["item_id"]), float(one["score"])) for one in reply["items"]]
            return Recommended(items, _text(reply["ranked_by"]))

    def talk(self, body: dict[str, Any]) -> Iterator[str]:
        """The words of a chat completion, as they come."""
        with self._explained():
            yield from self._http.stream_text("/v1/chat/completions", body)

    def _request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._explained():
            reply, _ = self._http.request(path, body, bytes)
        with self._expected():
            return dict(json.loads(reply))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Around a request: no answer is `ServerDown`, a refusal `Declined` with the server's own words."""
        try:
            yield
        except ReplyError as error:
            if error.status in _DOWN:
                raise ServerDown(f"{self.url} does not answer ({error}). Start it with: llmrec serve RUN") from None
            try:
                fault = json.loads(error.reply)["error"]
                declined = Declined(str(fault["message"]), fault.get("param"))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                declined = Declined(f"{self.url} answers HTTP {error.status}: it is no server of `llmrec serve`.")
            raise declined from None

    @contextlib.contextmanager
    def _expected(self) -> Iterator[None]:
        """Around the reading of a reply: one that lacks what it must have is `Declined`."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Declined(
                f"{self.url} does not answer as `llmrec serve` does ({type(error).__name__}: {error}). "
                "Check the address."
            ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} instead of a text")
    return value


class OwnServer:
    """A server of a run folder or an export, with a free port and a key of its own; runs inside a `with` block.

    Args:
        engine: vllm or transformers.
    """

    def __init__(self, run: Path, engine: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.run, self.engine, self.key = run, engine, secrets.token_urlsafe(24)
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # without a name: gone with this process, however it ends
        self._child: ChildProcess | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._child is not None and self._child.alive

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers.

        Raises:
            ChatError: it ends before it answers; with the last lines of its log.
        """
        if self.alive:
            return
        command = [sys.executable, "-m", "llmrec", "serve", str(self.run)]
        command += ["--engine", self.engine, "--port", str(self.port)]
        self._child = ChildProcess(command, GRACE, env=os.environ | {KEY: self.key}, stdout=self._log, stderr=self._log)
        for _ in range(PATIENCE * 5):
            if not self.alive:
                raise ChatError(f"the server of {self.run} did not start:\n{self._last_lines()}")
            with contextlib.suppress(ReplyError):
                HttpClient(self.url, timeout=2, tries=1).request("/health", None, bytes)
                return
            time.sleep(0.2)
        raise ChatError(f"the server of {self.run} did not answer in {PATIENCE} s:\n{self._last_lines()}")

    def stop(self) -> None:
        """End it, and what it started."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def __enter__(self) -> OwnServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _last_lines(self) -> str:
        file = self._log.fileno()  # read without moving its position, at which the server writes
        return os.pread(file, 600, max(0, os.fstat(file).st_size - 600)).decode(errors="replace").strip()
