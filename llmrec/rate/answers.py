"""What a language model answers to prompts that ask for a rating, and answers kept so that nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from llmrec.errors import TextError
from llmrec.text.oracle import Cache

LONGEST = 16
"""Tokens of an answer at most: room for a number and a few words around it."""


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: what was said, greedily.
        shares: (steps,) probability of every rating of the scale, adding up to 1; None where it cannot be had.
        mass: how likely any of them was among all that the model might have said, 0 to 1; None as `shares`.
        prompt_tokens, answer_tokens: as the engine counts them.
        seconds: of work; of a batch's, its share.
        tries: how often it was asked for.
    """

    text: str
    shares: list[float] | None
    mass: float | None
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    tries: int = 1


class Engine(Protocol):
    """What runs a language model.

    Attributes:
        name: says all that an answer depends on but the prompt; answers are kept under it.
    """

    name: str

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """The answer to each prompt with its number, in any order, each as soon as it is there."""
        ...


def answered(
    engine: Engine, prompts: Sequence[str], kept: Path, progress: Callable[[float], None] = lambda done: None
) -> list[Answer]:
    """An answer to each prompt: from the file of a run that was killed, or before, and from the engine.

    Args:
        kept: JSONL file of answers, which grows as they come.
        progress: told the share of prompts that have an answer.

    Raises:
        TextError: the file is damaged, or an endpoint gives no answer; those that came before are kept.
    """
    cache = Cache(kept, engine.name)
    missing = [prompt for prompt in dict.fromkeys(prompts) if cache.get(prompt) is None]
    there = len(set(prompts)) - len(missing)
    for number, answer in engine.ask(missing) if missing else ():
        cache.add(missing[number], json.dumps(asdict(answer)))
        there += 1
        progress(there / len(set(prompts)))
    return [_read(cache, prompt) for prompt in prompts]


def _read(cache: Cache, prompt: str) -> Answer:
    text = cache.get(prompt)
    try:
        return Answer(**json.loads(text or ""))
    except (ValueError, TypeError):
        raise TextError(f"{cache.path} holds an answer that this version cannot read. Delete it.") from None
