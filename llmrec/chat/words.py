"""Words as the chat compares them, and the phrases that it listens for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from llmrec import shipped

_WORD = re.compile(r"\w+(?:['’]\w+)*")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A word of what somebody said.

    Attributes:
        text: as it is compared: lower case, without accents and apostrophes.
        start, stop: the characters that it stands at.
        capital: whether it was written with a capital letter, or is a number.
    """

    text: str
    start: int
    stop: int
    capital: bool


def words(text: str) -> list[Word]:
    """The words of a text, in order; one of which nothing is left to compare by (marks without a letter) is none."""
    found = [Word(fold(one[0]), one.start(), one.end(), not one[0][0].islower()) for one in _WORD.finditer(text)]
    return [word for word in found if word.text]


def fold(word: str) -> str:
    """A word as it is compared: `Children’s` and `childrens`, `café` and `Cafe` are the same."""
    flat = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in flat if unicodedata.category(char) != "Mn").replace("'", "").replace("’", "")


def key(text: str) -> Key:
    """A text as the words that it is compared by."""
    return tuple(word.text for word in words(text.replace("&", " and ")))


def singular(word: str) -> str:
    """A word without its plural, roughly: comedies, westerns."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


class Hearing:
    """The phrases of `prompts/hearing.yaml`."""

    def __init__(self, known: dict[str, Any]) -> None:
        """Take the phrases apart."""
        self._phrases = {name: {key(str(one)) for one in listed} for name, listed in known.items()}
        self.numbers = {name: {fold(word): int(value) for word, value in known[name].items()} for name in _NUMBERS}
        self.synonyms = {key(value): [key(one) for one in listed] for value, listed in known["synonyms"].items()}

    def at(self, name: str, said: list[Word], place: int) -> int:
        """How many words from `place` on are a phrase of this name; 0 where none is."""
        for length in (3, 2, 1):
            if tuple(word.text for word in said[place : place + length]) in self._phrases[name]:
                return min(length, len(said) - place)
        return 0

    def anywhere(self, name: str, said: list[Word]) -> bool:
        """Whether a phrase of this name is said at all."""
        return any(self.at(name, said, place) for place in range(len(said)))

    def whole(self, name: str, said: list[Word]) -> bool:
        """Whether nothing but a phrase of this name is said."""
        return tuple(word.text for word in said) in self._phrases[name]

    def empty(self, listed: Iterable[str]) -> bool:
        """Whether all of these words mean nothing by themselves."""
        return all((word,) in self._phrases["stop"] or (word,) in self._phrases["assert"] for word in listed)


_NUMBERS = ("ordinals", "decades")


@cache
def hearing() -> Hearing:
    """English, as shipped."""
    return Hearing(yaml.safe_load((shipped.folder("prompts") / "hearing.yaml").read_text(encoding="utf-8")))
