"""A message as words, and the phrases that the chat listens for (`prompts/hearing.yaml`)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from llmrec import resources

Key = tuple[str, ...]  # words as they are compared
Span = tuple[int, int]  # first character of a text, and the one behind the last
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_END = re.compile(r"[.!?;\n]")


@dataclass(frozen=True)
class Word:
    """A word of a message.

    Attributes:
        text: as it is compared, see `fold`.
        start, stop: its characters in the message.
        capital: whether it begins with a capital letter or a digit.
    """

    text: str
    start: int
    stop: int
    capital: bool


def fold(word: str) -> str:
    """A word as it is compared: `Children’s` and `childrens`, `café` and `Cafe` are the same."""
    flat = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in flat if unicodedata.category(char) != "Mn" and char not in "'’")


def words(text: str) -> list[Word]:
    """The words of a text; marks of which `fold` leaves nothing are no words."""
    found = (Word(fold(one[0]), one.start(), one.end(), not one[0][0].islower()) for one in _WORD.finditer(text))
    return [word for word in found if word.text]


def key(text: str) -> Key:
    """A text as the words that it is compared by."""
    return tuple(word.text for word in words(text.replace("&", " and ")))


@cache
def lexicon() -> dict[str, Any]:
    """`prompts/hearing.yaml`: name → set of phrases, word → number, or value → phrases that mean it."""
    known = yaml.safe_load((resources.folder("prompts") / "hearing.yaml").read_text(encoding="utf-8"))
    phrases = {name: {key(str(one)) for one in content} for name, content in known.items() if isinstance(content, list)}
    numbers = {name: {fold(word): value for word, value in known[name].items()} for name in ("ordinals", "decades")}
    synonyms = {key(value): [key(one) for one in others] for value, others in known["synonyms"].items()}
    return {**phrases, **numbers, "synonyms": synonyms}


def is_filler(*texts: str) -> bool:
    """Whether all of these words mean nothing by themselves."""
    return all((text,) in lexicon()["stop"] or (text,) in lexicon()["assert"] for text in texts)


class Message:
    """A text and its words."""

    def __init__(self, text: str) -> None:
        self.text, self.words = text, words(text)

    def __len__(self) -> int:
        return len(self.words)

    def key(self, first: int = 0, last: int | None = None) -> Key:
        """The words from a place to another, as they are compared."""
        return tuple(word.text for word in self.words[first:last])

    def phrase(self, name: str, place: int) -> int:
        """Words of the longest phrase of this name that begins at a place; 0 for none."""
        lengths = range(min(3, len(self) - place), 0, -1)
        return next((length for length in lengths if self.key(place, place + length) in lexicon()[name]), 0)

    def has(self, name: str) -> bool:
        """Whether it holds a phrase of this name."""
        return any(self.phrase(name, place) for place in range(len(self)))

    def is_phrase(self, name: str) -> bool:
        """Whether it is a phrase of this name and nothing else."""
        return self.key() in lexicon()[name]

    def place(self, char: int) -> int:
        """The first word that ends behind a character; the number of words where there is none."""
        return next((place for place, word in enumerate(self.words) if word.stop > char), len(self))

    def inside(self, spans: list[Span]) -> list[bool]:
        """Whether each word begins inside one of the spans."""
        return [any(start <= word.start < stop for start, stop in spans) for word in self.words]

    def masked(self, spans: list[Span]) -> str:
        """The text with a NUL for every character of the spans."""
        characters = list(self.text)
        for start, stop in spans:
            characters[start:stop] = "\x00" * (stop - start)
        return "".join(characters)

    def negated(self, names: list[Span]) -> list[bool]:
        """Whether each word is negated: from a negation to a word that asserts, or the end of the sentence.

        A comma ends it only before a word that begins anew: `no horror, from the 90s`, but `no horror, war or western`.
        Words of names do neither.
        """
        negated, now, place, last = [False] * len(self), False, 0, -9
        inside, text = self.inside(names), self.masked(names)
        while place < len(self):
            between = text[self.words[place - 1].stop : self.words[place].start] if place else ""
            if _SENTENCE_END.search(between) or ("," in between and self.phrase("anew", place)):
                now = False
            length = 0 if inside[place] else self.phrase("negate", place)
            if length:
                now, last = True, place + length - 1
            elif not inside[place] and self.phrase("assert", place) and place - last > 2:
                now = False
            for _ in range(max(1, length)):
                negated[place] = now
                place += 1
        return negated
