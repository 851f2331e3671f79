"""Answers of language models in a JSONL file, each found by the content of its question."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from llmrec.errors import TextError
from llmrec.files import explain_disk, hash_json


class Cache:
    """One line an answer: key, model, prompt, text. Lines are only ever added; the last one of a key counts.

    Attributes:
        path: the file; made when the first answer comes.
        model: answers of which model are read and written; None reads those of any.
    """

    def __init__(self, path: Path, model: str | None) -> None:
        self.path, self.model = path, model
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        content = path.read_bytes() if path.is_file() else b""
        self._whole = content.rfind(b"\n") + 1  # what comes after was being written when a process was killed
        for number, line in enumerate(content[: self._whole].splitlines(), 1):
            self._read(line, number)

    def get(self, prompt: str) -> str | None:
        """The answer to a question, or None."""
        return self._texts.get(key(prompt))

    def add(self, prompt: str, text: str) -> None:
        """Keep an answer; it is on the disk when this returns.

        Raises:
            RunError: the disk is full or closed.
        """
        entry = {"key": key(prompt), "model": self.model, "prompt": prompt, "text": text}
        with self._lock, explain_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() > self._whole:
                    file.truncate(self._whole)
                file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())
                self._whole = file.tell()
            self._texts[key(prompt)] = text

    def _read(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
            found, model, text = str(entry["key"]), entry.get("model"), str(entry["text"])
            honest = found == key(entry["prompt"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TextError(f"{self.path}, line {number}: not an answer with key, model, prompt and text.") from None
        if not honest:
            raise TextError(
                f"{self.path}, line {number}: its key is not that of its prompt; the file was edited. Delete the line."
            )
        if self.model is None or model == self.model:
            self._texts[found] = text


def key(prompt: str) -> str:
    """What a question is found by: SHA-256 of its words."""
    return hash_json(prompt)
