"""A text oracle behind HTTP: any server that speaks OpenAI's chat completions, such as vLLM's or a provider's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmrec import addresses
from llmrec.errors import TextError
from llmrec.text.cache import Cache
from llmrec.text.client import Nothing, OpenAIClient
from llmrec.text.oracle import Ask

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
            url, model, patience, tries, rest: as `OpenAIClient` takes them.
            cache: JSONL file of answers.
            workers: questions at a time.
        """
        self.client, self.workers = OpenAIClient(url, model, patience, tries, rest), workers
        self.cache = Cache(cache, model)

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
        body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0.0, "seed": 0}
        try:
            text, _ = self.client.complete(body, _words)
        except TextError as error:
            raise TextError(
                f"{str(error).removesuffix('.')}. Check tasks.oracle.url and .model. If it wants a key, set "
                f"{addresses.KEY}, and {addresses.BASE} to that url; answers so far are kept in {self.cache.path}."
            ) from None
        self.cache.add(prompt, text)


def _words(reply: Any) -> str:
    content = reply["choices"][0]["message"]["content"]
    text = " ".join(_THINKING.sub("", str(content or "")).split())
    if not text:
        raise Nothing("it answered with nothing")
    return text
