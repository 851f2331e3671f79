"""What a text oracle is, and the two that need no model: a template's draft, and answers that were given before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmrec.errors import TextError
from llmrec.text.cache import Cache


@dataclass(frozen=True)
class Ask:
    """One text that is wanted.

    Attributes:
        prompt: what a language model is asked.
        draft: what is said where no language model is: made from known fields.
    """

    prompt: str
    draft: str


class TextOracle(Protocol):
    """Writes texts."""

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """One text for each ask, in order, on one line, never empty."""
        ...


class Template:
    """Says the draft: deterministic, free, without a model."""

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """The drafts."""
        return [ask.draft for ask in asks]


class Replay:
    """Gives back what is in a cache, and nothing else: a run that needs no server and comes out the same."""

    def __init__(self, path: Path, model: str | None = None) -> None:
        """Read a cache.

        Args:
            path: the JSONL file that `Server` wrote.
            model: only its answers; those of any model otherwise.

        Raises:
            TextError: no such file, or not such a file.
        """
        if not path.is_file():
            raise TextError(f"there is no cache of answers at {path}. Fill it once with tasks.oracle.by: server.")
        self.cache = Cache(path, model)

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """The answers of before.

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
