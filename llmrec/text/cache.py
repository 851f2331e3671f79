"""Answers of language models in a JSONL file, each found by the content of its question."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import IO

from llmrec.errors import TextError
from llmrec.files import explain_disk, hash_json


class Cache:
    """One line an answer: key, model, prompt, text. Lines are only ever added; the last one of a key counts.

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
                fcntl.flock(
                    file, fcntl.LOCK_EX
                )  # whether the last line is whole must not change before ours is written
                file.write(line if _ends_well(file) else b"\n" + line)
            self._texts[key(prompt)] = text

    def _read(self, line: bytes, number: int) -> None:
        if not line.strip():
            return
        try:
            entry = json.loads(line)
            found, model, text = str(entry["key"]), entry.get("model"), str(entry["text"])
            honest = found == key(entry["prompt"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ValueError) and line[: len(_BEGINNING)] == _BEGINNING[: len(line)]:
                return
            raise TextError(
                f"{self.path}, line {number}: not an answer with key, model, prompt and text. Delete the line, or name "
                "another file: tasks.oracle.cache"
            ) from None
        if not honest:
            raise TextError(
                f"{self.path}, line {number}: its key is not that of its prompt; the file was edited. Delete the line."
            )
        if self.model is None or model == self.model:
            self._texts[found] = text


_BEGINNING = b'{"key": "'


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


def _ends_well(file: IO[bytes]) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def key(prompt: str) -> str:
    """What a question is found by: SHA-256 of its words."""
    return hash_json(prompt)
