"""Texts that tasks need and the data lack: from a template, from a cache of answers, or from a language model's server.

The server is any that speaks OpenAI's chat completions, such as vLLM's or a provider's.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from llmrec import trusted_urls
from llmrec.errors import TextError
from llmrec.files import explain_disk, hash_json
from llmrec.text.client import Nothing, OpenAIClient

_BEGINNING = b'{"key": "'  # of every line of a cache
_THINKING = re.compile(r"<think>.*?</think>", re.S)


class Cache:
    """A JSONL file of answers: key, model, prompt, text. Lines are only ever added; the last one of a key counts.

    A file that holds anything else is refused when it is opened. A line that a killed process has written in part is
    passed over and stays; the next line begins behind it.

    Attributes:
        path: the file; made when the first answer comes.
        model: answers of which model are read and written; None reads those of any.
    """

    def __init__(self, path: Path, model: str | None) -> None:
        """Read a cache.

        Raises:
            TextError: something else is there; names the first line that is no answer.
        """
        self.path, self.model = path, model
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        for number, line in enumerate(_content(path).split(b"\n"), 1):
            if line.strip():
                self._read(line, number)

    def get(self, prompt: str) -> str | None:
        """The answer to a question, or None."""
        return self._texts.get(key(prompt))

    def add(self, prompt: str, text: str) -> None:
        """Keep an answer; it is on the disk when this returns. Other processes may add to the file at the same time.

        Raises:
            RunError: the disk is full or closed.
        """
        entry = {"key": key(prompt), "model": self.model, "prompt": prompt, "text": text}
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        with self._lock, explain_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                # Locked, since whether the last line is whole must not change before ours is written.
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(line if _ends_with_line(file) else b"\n" + line)
            self._texts[key(prompt)] = text

    def _read(self, line: bytes, number: int) -> None:
        place = f"{self.path}, line {number}:"
        try:
            entry = json.loads(line)
            found, model, text = str(entry["key"]), entry.get("model"), str(entry["text"])
            matches = found == key(entry["prompt"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ValueError) and line[: len(_BEGINNING)] == _BEGINNING[: len(line)]:
                return
            raise TextError(
                f"{place} not an answer with key, model, prompt and text. Delete the line, or name "
                "another file: tasks.oracle.cache"
            ) from None
        if not matches:
            raise TextError(f"{place} its key is not that of its prompt; the file was edited. Delete the line.")
        if self.model is None or model == self.model:
            self._texts[found] = text


def key(prompt: str) -> str:
    """The key of a question: SHA-256 of its words."""
    return hash_json(prompt)


def _content(path: Path) -> bytes:
    if not os.path.lexists(path):
        return b""
    try:
        if path.is_file():
            return path.read_bytes()
        reason = "it is no regular file"
    except OSError as error:
        reason = str(error.strerror)
    raise TextError(f"{path} cannot be read as a cache of answers: {reason}. Name another file: tasks.oracle.cache")


def _ends_with_line(file: IO[bytes]) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


@dataclass(frozen=True)
class Ask:
    """A text to write: the prompt for a language model, and the draft that a template makes from known fields."""

    prompt: str
    draft: str


class TextOracle(Protocol):
    """Writes texts."""

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """One text for each ask, in order, on one line, never empty."""
        ...


class TemplateOracle:
    """Returns the drafts: deterministic, without a model."""

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """The drafts."""
        return [ask.draft for ask in asks]


class Replay:
    """Returns the answers of a cache, and nothing else: a run that needs no server and can be repeated."""

    def __init__(self, path: Path, model: str | None = None) -> None:
        """Read the cache that `Server` wrote; answers of all models where `model` is None.

        Raises:
            TextError: no such file, or not such a file.
        """
        if not path.is_file():
            raise TextError(f"there is no cache of answers at {path}. Fill it once with tasks.oracle.by: server.")
        self.cache = Cache(path, model)

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """The answers of the cache.

        Raises:
            TextError: the cache lacks some.
        """
        missing = [ask for ask in asks if self.cache.get(ask.prompt) is None]
        if missing:
            raise TextError(
                f"{self.cache.path} lacks {len(missing)} of {len(asks)} answers; the first question without one is: "
                f"'{missing[0].prompt[:200]}'. Fill it with tasks.oracle.by: server, or check tasks.oracle.model."
            )
        return [self.cache.get(ask.prompt) or "" for ask in asks]


class Server:
    """Sends a server the questions that the cache lacks; answers are kept as they come, so a killed run goes on."""

    def __init__(self, url: str, model: str, cache: Path, workers: int = 8, **client: Any) -> None:
        """Name a server; `workers` questions are sent at a time, `client` are further arguments of `OpenAIClient`."""
        self.client, self.workers = OpenAIClient(url, model, **client), workers
        self.cache = Cache(cache, model)

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """An answer to each question, from the cache or the server.

        Raises:
            TextError: the server refuses, stays silent, or says nothing, after several tries.
        """
        missing = list(dict.fromkeys(ask.prompt for ask in asks if self.cache.get(ask.prompt) is None))
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for _ in pool.map(self._answer, missing):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self.cache.get(ask.prompt) or "" for ask in asks]

    def _answer(self, prompt: str) -> None:
        body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0.0, "seed": 0}
        try:
            text, _ = self.client.complete(body, _content_of)
        except TextError as error:
            raise TextError(
                f"{str(error).removesuffix('.')}. Check tasks.oracle.url and .model. If it wants a key, set "
                f"{trusted_urls.KEY}, and {trusted_urls.BASE} to that url; "
                f"answers so far are kept in {self.cache.path}."
            ) from None
        self.cache.add(prompt, text)


def _content_of(reply: Any) -> str:
    content = reply["choices"][0]["message"]["content"]
    text = " ".join(_THINKING.sub("", str(content or "")).split())
    if not text:
        raise Nothing("it answered with nothing")
    return text
