"""A server that speaks OpenAI's chat completions; one that is busy or answers nonsense is asked again later."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from llmrec import addresses
from llmrec.errors import TextError

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class Endpoint:
    """Posts questions and reads replies; the rest between tries doubles.

    Attributes:
        url: of chat completions.
        model: the server's name for it.
    """

    def __init__(self, url: str, model: str, patience: float = 60.0, tries: int = 5, rest: float = 1.0) -> None:
        """Name a server.

        Args:
            url: of its API, such as http://localhost:8000/v1
            patience: seconds to wait for an answer.
            tries: before giving up on a question.
            rest: seconds before the second try.
        """
        self.url, self.model = url.rstrip("/") + "/chat/completions", model
        self.patience, self.tries, self.rest = patience, tries, rest

    def post(self, body: dict[str, Any], read: Callable[[Any], T]) -> tuple[T, int]:
        """Ask until a reply can be read.

        Args:
            body: of the request, but for the model's name.
            read: takes the reply's JSON apart; raises ValueError, KeyError, IndexError or TypeError for nonsense.

        Returns:
            What was read, and how many tries it took.

        Raises:
            TextError: the server refuses, stays silent, or answers nonsense, after all tries.
        """
        why = ""
        for turn in range(1, self.tries + 1):
            if turn > 1:
                time.sleep(self.rest * 2 ** (turn - 2))
            try:
                return read(self._once({"model": self.model, **body})), turn
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
                if error.code not in _AGAIN:
                    break
            except Nothing as error:
                why = str(error)
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                why = f"{type(error).__name__}: {error}"
        raise TextError(f"{self.url} gave no answer for the model '{self.model}' ({why}).")

    def _once(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        key = addresses.key_for(self.url)
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with _OPENER.open(request, timeout=self.patience) as reply:
            return json.load(reply)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which urllib would follow with the key in the request."""

    def redirect_request(self, *args: Any) -> None:
        """No further request; the redirect becomes an HTTPError."""


_OPENER = urllib.request.build_opener(_NoRedirect)


class Nothing(ValueError):
    """A reply without words."""
