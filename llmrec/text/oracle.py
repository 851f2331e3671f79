"""Text oracles: write texts that tasks need and the data lack, by a template, from a cache, or by a language model.

The language model is on any server with OpenAI's chat completions, such as vLLM's or a provider's.
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
from llmrec.text.client import EmptyReply, OpenAIClient

_LINE_START = b'{"key": "'  # of every line of a cache
_THINKING = re.compile(r"<think>.*?</think>", re.S)


class AnswerCache:
    """Append-only JSONL cache of answers with key, model, prompt and text; the last line of a key counts.

    A file with other content is refused when it is opened. A line that a killed process wrote in part is skipped and
    stays in the file; the next line starts after it.

    Attributes:
        path: the file; created with the first answer.
        model: only answers of this model are read and written; None reads those of any model.
    """

    def __init__(self, path: Path, model: str | None) -> None:
        """Read a cache.

        Raises:
            TextError: the file is not a cache; names the first line that is not an answer.
        """
        self.path, self.model = path, model
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        for number, line in enumerate(_content(path).split(b"\n"), 1):
            if line.strip():
                self._read(line, number)

    def get(self, prompt: str) -> str | None:
        """Return the answer to a prompt, or None."""
        return self._texts.get(prompt_key(prompt))

    def add(self, prompt: str, text: str) -> None:
        """Append an answer; it is on disk when this returns. Several processes may append to the same file.

        Raises:
            RunError: the disk is full or read-only.
        """
        key = prompt_key(prompt)
        entry = {"key": key, "model": self.model, "prompt": prompt, "text": text}
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        with self._lock, explain_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                # Locked, since whether the last line is complete must not change before ours is written.
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(line if _ends_with_line(file) else b"\n" + line)
            self._texts[key] = text

    def _read(self, line: bytes, number: int) -> None:
        place = f"{self.path}, line {number}:"
        try:
            entry = json.loads(line)
            key, model, text = str(entry["key"]), entry.get("model"), str(entry["text"])
            matches = key == prompt_key(entry["prompt"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ValueError) and line[: len(_LINE_START)] == _LINE_START[: len(line)]:
                return  # written in part
            raise TextError(
                f"{place} not an answer with key, model, prompt and text. Delete the line, or name "
                "another file: tasks.oracle.cache"
            ) from None
        if not matches:
            raise TextError(f"{place} its key is not that of its prompt; the file was edited. Delete the line.")
        if self.model is None or model == self.model:
            self._texts[key] = text


def prompt_key(prompt: str) -> str:
    """SHA-256 of a prompt, its key in the cache."""
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
class TextRequest:
    """A text to write: the prompt for a language model, and a draft that a template made of known fields."""

    prompt: str
    draft: str


class TextOracle(Protocol):
    """Writes texts."""

    def complete(self, requests: Sequence[TextRequest]) -> list[str]:
        """Write one text for each request, in order, on one line, never empty."""
        ...


class TemplateOracle:
    """Returns the drafts: deterministic, without a model."""

    def complete(self, requests: Sequence[TextRequest]) -> list[str]:
        """Return the drafts."""
        return [request.draft for request in requests]


class ReplayOracle:
    """Returns answers from a cache only, so that a run needs no server and can be repeated."""

    def __init__(self, path: Path, model: str | None = None) -> None:
        """Read a cache that `ServerOracle` wrote; answers of all models where `model` is None.

        Raises:
            TextError: there is no such file, or it is not a cache.
        """
        if not path.is_file():
            raise TextError(f"there is no cache of answers at {path}. Fill it once with tasks.oracle.by: server.")
        self.cache = AnswerCache(path, model)

    def complete(self, requests: Sequence[TextRequest]) -> list[str]:
        """Return the cached answers.

        Raises:
            TextError: some are missing.
        """
        missing = [request for request in requests if self.cache.get(request.prompt) is None]
        if missing:
            raise TextError(
                f"{self.cache.path} lacks {len(missing)} of {len(requests)} answers; the first question without one "
                f"is: '{missing[0].prompt[:200]}'. Fill it with tasks.oracle.by: server, or check tasks.oracle.model."
            )
        return [self.cache.get(request.prompt) or "" for request in requests]


class ServerOracle:
    """Asks a server for answers that the cache lacks. Each is cached when it comes, so a killed run can continue."""

    def __init__(self, url: str, model: str, cache: Path, workers: int = 8, **client: Any) -> None:
        """Set up client and cache; `workers` requests run at a time, `client` has more arguments of `OpenAIClient`."""
        self.client, self.workers = OpenAIClient(url, model, **client), workers
        self.cache = AnswerCache(cache, model)

    def complete(self, requests: Sequence[TextRequest]) -> list[str]:
        """Return an answer to each request, from the cache or the server.

        Raises:
            TextError: the server refuses, or gives no text after several tries.
        """
        missing = list(dict.fromkeys(request.prompt for request in requests if self.cache.get(request.prompt) is None))
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for _ in pool.map(self._answer, missing):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self.cache.get(request.prompt) or "" for request in requests]

    def _answer(self, prompt: str) -> None:
        body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0.0, "seed": 0}
        try:
            text, _ = self.client.complete(body, _read_text)
        except TextError as error:
            raise TextError(
                f"{str(error).removesuffix('.')}. Check tasks.oracle.url and .model. If it wants a key, set "
                f"{trusted_urls.KEY}, and {trusted_urls.BASE} to that url; "
                f"answers so far are kept in {self.cache.path}."
            ) from None
        self.cache.add(prompt, text)


def _read_text(reply: Any) -> str:
    content = reply["choices"][0]["message"]["content"]
    text = " ".join(_THINKING.sub("", str(content or "")).split())
    if not text:
        raise EmptyReply("it answered with nothing")
    return text
