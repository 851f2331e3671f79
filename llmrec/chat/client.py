"""A client of the HTTP API of `llmrec serve`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from llmrec.chat.store import Store, Thing
from llmrec.errors import ChatError

TRIES, REST = 3, 0.3  # before a server counts as down; seconds between them, doubling
_AGAIN = {429, 502, 503, 504}


class ServerDown(ChatError):
    """The server does not answer."""


class Declined(ChatError):
    """The server answers, and not with what was asked.

    Attributes:
        param: the field of the request that it is about, or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        """Say why."""
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Given:
    """Recommended items, best first.

    Attributes:
        items: item id and log-probability.
        ranked_by: model or popularity.
        catalogue: hash of the catalogue that they are from.
        notes: what the request did not get as asked.
    """

    items: list[tuple[str, float]]
    ranked_by: str
    catalogue: str
    notes: list[str]


class Client:
    """One server."""

    def __init__(self, url: str, api_key: str | None = None, patience: float = 60.0, rest: float = REST) -> None:
        """Name a server; nothing is asked yet.

        Args:
            url: such as http://127.0.0.1:8000
            api_key: of the server, where it wants one.
            patience: seconds to wait for an answer.
            rest: seconds before the second try; they double.
        """
        self.url, self.rest = url.rstrip("/"), rest
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(patience, connect=5.0))

    def version(self) -> dict[str, Any]:
        """What is running there.

        Raises:
            ServerDown: nothing answers.
            Declined: it is no server of llmrec, or wants another key.
        """
        found = self._ask("GET", "/version")
        with self._expected():
            return found | {name: _text(found[name]) for name in ("model", "catalogue")}

    def store(self) -> Store:
        """The whole catalogue.

        Raises:
            ServerDown, Declined: see `version`.
        """
        things: list[Thing] = []
        while True:
            page = self._ask("GET", "/v1/items", params={"start": len(things), "limit": 1000})
            with self._expected():
                things += [
                    Thing(_text(one["item_id"]), _text(one["title"]), _text(one["code"]), dict(one["columns"]))
                    for one in page["items"]
                ]
                if len(things) >= page["total"] or not page["items"]:
                    return Store(_text(page["catalogue"]), things)

    def recommend(self, history: Sequence[str], k: int, **more: Any) -> Given:
        """Items after a history, and none of it: a guest has just said what they know.

        Args:
            more: further fields of the request: allow, deny, category, query.

        Raises:
            ServerDown: nothing answers.
            Declined: the request cannot be answered as it is; `param` says why.
        """
        body = {"history": list(history), "k": k, "exclude_seen": True} | more
        found = self._ask("POST", "/v1/recommendations", json=body)
        with self._expected():
            items = [(_text(one["item_id"]), float(one["score"])) for one in found["items"]]
            return Given(items, found["ranked_by"], found["catalogue"], [_text(note) for note in found["notes"]])

    def talk(self, body: dict[str, Any]) -> Iterator[str]:
        """The words of a chat completion, as they come.

        Raises:
            ServerDown, Declined: see `recommend`.
        """
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as reply:
                if reply.status_code >= 400:
                    reply.read()
                    raise _declined(reply)
                for line in reply.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if line.startswith("data:") and data != "[DONE]":
                        yield _delta(data)
        except httpx.HTTPError as error:
            raise ServerDown(f"{self.url} does not answer ({type(error).__name__}).") from error

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        why = ""
        for turn in range(TRIES):
            if turn:
                time.sleep(self.rest * 2 ** (turn - 1))
            try:
                reply = self._http.request(method, path, **more)
            except httpx.HTTPError as error:
                why = type(error).__name__
                continue
            if reply.status_code in _AGAIN:
                why = f"HTTP {reply.status_code}"
                continue
            if reply.status_code >= 400:
                raise _declined(reply)
            with self._expected():
                return dict(reply.json())
        raise ServerDown(f"{self.url} does not answer ({why}). Start it with: llmrec serve RUN")

    @contextlib.contextmanager
    def _expected(self) -> Iterator[None]:
        """Around the reading of a reply: one that lacks what it must have is `Declined`."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise Declined(
                f"{self.url} does not answer as `llmrec serve` does ({type(error).__name__}: {error}). "
                "Check the address."
            ) from None


def _text(value: Any) -> str:
    """A value that must be text.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} instead of a text")
    return value


def _delta(data: str) -> str:
    try:
        return str(json.loads(data)["choices"][0]["delta"].get("content") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""


def _declined(reply: httpx.Response) -> Declined:
    try:
        fault = reply.json()["error"]
        return Declined(str(fault["message"]), fault.get("param"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Declined(f"{reply.request.url} answers HTTP {reply.status_code}: it is no server of `llmrec serve`.")
