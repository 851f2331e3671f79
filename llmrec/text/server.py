"""A text oracle behind HTTP: any server that speaks OpenAI's chat completions, such as vLLM's or a provider's."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmrec.errors import TextError
from llmrec.text.cache import Cache
from llmrec.text.oracle import Ask

KEY = "OPENAI_API_KEY"  # the environment variable that holds the key, where the server wants one
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_THINKING = re.compile(r"<think>.*?</think>", re.S)


class Server:
    """Asks a server what the cache lacks; answers are kept as they come, so a killed run asks for nothing twice.

    Attributes:
        cache: the answers so far.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path,
        workers: int = 8,
        patience: float = 60.0,
        tries: int = 5,
        rest: float = 1.0,
    ) -> None:
        """Name a server.

        Args:
            url: of its API, such as http://localhost:8000/v1
            model: its name for the model.
            cache: JSONL file of answers.
            workers: questions at a time.
            patience: seconds to wait for an answer.
            tries: before giving up on a question; the rest between them doubles.
            rest: seconds before the second try.
        """
        self.url, self.model, self.cache = url.rstrip("/") + "/chat/completions", model, Cache(cache, model)
        self.workers, self.patience, self.tries, self.rest = workers, patience, tries, rest

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """An answer to each question, from the cache or the server.

        Raises:
            TextError: the server refuses, stays silent, or says nothing, after several tries.
        """
        missing = list(dict.fromkeys(ask.prompt for ask in asks if self.cache.get(ask.prompt) is None))
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for _ in pool.map(self._ask, missing):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self.cache.get(ask.prompt) or "" for ask in asks]

    def _ask(self, prompt: str) -> None:
        why = ""
        for turn in range(self.tries):
            if turn:
                time.sleep(self.rest * 2 ** (turn - 1))
            try:
                text = self._once(prompt)
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
                if error.code not in _AGAIN:
                    break
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if text:
                    self.cache.add(prompt, text)
                    return
                why = "it answered with nothing"
        raise TextError(
            f"{self.url} gave no answer for the model '{self.model}' ({why}). Check tasks.oracle.url and .model, and "
            f"{KEY} if it wants a key; answers so far are kept in {self.cache.path}."
        )

    def _once(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.0, "seed": 0}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.patience) as reply:
            content = json.load(reply)["choices"][0]["message"]["content"]
        return " ".join(_THINKING.sub("", str(content or "")).split())
