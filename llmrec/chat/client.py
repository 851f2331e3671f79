"""A client of the HTTP API of `llmrec serve`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmrec.chat.store import Store, Thing
from llmrec.errors import ChatError
from llmrec.text.client import HttpClient, NoAnswer

TRIES, REST = 3, 0.3  # before a server counts as down; seconds between them, doubling
_DOWN = {None, 429, 502, 503, 504}  # statuses of a server that is not there or busy


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
        self._http = HttpClient(url, api_key, patience, TRIES, rest)
        self.url = self._http.url

    def version(self) -> dict[str, Any]:
        """What is running there.

        Raises:
            ServerDown: nothing answers.
            Declined: it is no server of llmrec, or wants another key.
        """
        found = self._ask("/version")
        with self._expected():
            return found | {name: _text(found[name]) for name in ("model", "catalogue")}

    def store(self) -> Store:
        """The whole catalogue.

        Raises:
            ServerDown, Declined: see `version`.
        """
        things: list[Thing] = []
        while True:
            page = self._ask(f"/v1/items?start={len(things)}&limit=1000")
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
        found = self._ask("/v1/recommendations", body)
        with self._expected():
            items = [(_text(one["item_id"]), float(one["score"])) for one in found["items"]]
            return Given(items, found["ranked_by"], found["catalogue"], [_text(note) for note in found["notes"]])

    def talk(self, body: dict[str, Any]) -> Iterator[str]:
        """The words of a chat completion, as they come.

        Raises:
            ServerDown, Declined: see `recommend`.
        """
        with self._refusals():
            yield from self._http.words("/v1/chat/completions", body)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._refusals():
            reply, _ = self._http.request(path, body, bytes)
        with self._expected():
            return dict(json.loads(reply))

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Around a request: no answer is `ServerDown`, a refusal `Declined` with the server's own words."""
        try:
            yield
        except NoAnswer as error:
            if error.status in _DOWN:
                raise ServerDown(f"{self.url} does not answer ({error}). Start it with: llmrec serve RUN") from None
            raise _declined(self.url, error) from None

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
    """A value that must be text.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} instead of a text")
    return value


def _declined(url: str, error: NoAnswer) -> Declined:
    try:
        fault = json.loads(error.reply)["error"]
        return Declined(str(fault["message"]), fault.get("param"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Declined(f"{url} answers HTTP {error.status}: it is no server of `llmrec serve`.")
