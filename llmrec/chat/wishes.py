"""Wishes in what somebody says: values of columns, years, prices, and what they are not to be."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from llmrec.chat.mentions import negations
from llmrec.chat.store import Column, Store, Wish
from llmrec.chat.words import Key, Word, hearing, key, singular

_DECADE = re.compile(r"(?<!\d)(?:(1[89]|20)?(\d0))['’]?s\b")
_BETWEEN = re.compile(
    r"(?:between |from )?[$€£]?(\d+(?:\.\d+)?)\s*(?:-|–|to|and|until)\s*[$€£]?(\d+(?:\.\d+)?)(?!\d|['’]?s\b)"
)
_NUMBER = re.compile(r"[$€£]?\s?(\d+(?:[.,]\d{1,2})?)(?!\d|['’]?s\b)")
LOW, HIGH = 0.25, 0.75  # "old" and "cheap" are the lowest quarter of a column, "recent" the highest


@dataclass(frozen=True)
class Wished:
    """A wish and where it stands.

    Attributes:
        wish: what.
        start, stop: characters of the text.
    """

    wish: Wish
    start: int
    stop: int


class Vocabulary:
    """The values that a catalogue's columns have, and other words for them."""

    def __init__(self, store: Store) -> None:
        """Learn the values."""
        self.store = store
        self._small: dict[Key, list[Wish]] = {}
        self._large: dict[Key, list[Wish]] = {}
        for column in store.columns.values():
            known = self._small if column.small else self._large
            for name, value in column.shown.items():
                for form in _forms(name) if column.small else [name]:
                    known.setdefault(form, []).append(Wish(column.name, values=(value,)))

    def at(self, said: list[Word], place: int) -> int:
        """How many words from a place on are a value."""
        return len(self._value(said, place)[0])

    def values(self, text: str, said: list[Word], skip: list[tuple[int, int]]) -> list[Wished]:
        """Values that are said, outside of names."""
        found: list[Wished] = []
        denied, at = negations(text, said, skip), 0
        while at < len(said):
            if any(start <= said[at].start < stop for start, stop in skip):
                at += 1
                continue
            part, wishes = self._value(said, at)
            for wish in wishes[:1]:
                start, stop, wanted = said[at].start, said[at + len(part) - 1].stop, not denied[at]
                last = found[-1] if found else None
                if wanted and last and _either(text[last.stop : start], last.wish, wish):
                    wish, start = Wish(wish.column, values=last.wish.values + wish.values), found.pop().start
                found.append(Wished(Wish(wish.column, wanted, wish.values), start, stop))
            at += max(1, len(part))
        return found

    def _value(self, said: list[Word], place: int) -> tuple[list[Word], list[Wish]]:
        for length in range(min(5, len(said) - place), 0, -1):
            part = said[place : place + length]
            name = tuple(word.text for word in part)
            if name in self._small and not hearing().empty(name):
                return part, self._small[name]
            # a large vocabulary (brands) holds ordinary words: said with a capital letter, or as "by …"
            cue = place > 0 and hearing().at("by", said, place - 1) == 1
            if name in self._large and (cue or (place > 0 and all(word.capital for word in part))):
                return part, self._large[name]
        return [], []


def numbers(text: str, said: list[Word], store: Store, skip: list[tuple[int, int]]) -> list[Wished]:
    """Years and prices that are said."""
    masked = list(text)
    for start, stop in skip:
        masked[start:stop] = "\x00" * (stop - start)
    plain, found = "".join(masked), []
    year, price = store.kind("year"), store.kind("number")
    denied = negations(plain, said, skip)
    for column, low, high, start, stop in _ranges(plain, said, year, price):
        first = next((at for at, word in enumerate(said) if word.stop > start), 0)
        comparing = any(word.start >= start and word.stop <= stop and word.text in ("no", "not") for word in said)
        wanted = comparing or not (denied[first] if denied else False)
        found.append(Wished(Wish(column.name, wanted, low=low, high=high), start, stop))
    return found + _vague(plain, said, year, price, skip, [(one.start, one.stop) for one in found])


def _ranges(
    text: str, said: list[Word], year: Column | None, price: Column | None
) -> list[tuple[Column, float, float, int, int]]:
    """(column, low, high, start, stop) of every number that means one."""
    found: list[tuple[Column, float, float, int, int]] = []

    def add(column: Column | None, low: float, high: float, start: int, stop: int) -> None:
        if column is not None and not any(a < stop and start < b for *_, a, b in found):
            found.append((column, low, high, start, stop))

    for decade in _DECADE.finditer(text):
        begin = float((decade[1] or ("20" if decade[2] < "30" else "19")) + decade[2])
        add(year, begin, begin + 9, decade.start(), decade.end())
    for word in said:
        begin = float(hearing().numbers["decades"].get(word.text, 0))
        if begin and text[word.start] != "\x00":
            add(year, begin, begin + 9, word.start, word.stop)
    for pair in _BETWEEN.finditer(text):
        low, high = sorted((float(pair[1]), float(pair[2])))
        add(_meant(text, pair.start(), pair.end(), low, year, price), low, high, pair.start(), pair.end())
    for one in _NUMBER.finditer(text):
        value = float(one[1].replace(",", "."))
        place = next((at for at, word in enumerate(said) if word.start >= one.start(1)), len(said))
        kind, length = _compared(said, place)
        column = _meant(text, one.start(), one.end(), value, year, price, bool(kind))
        ends = {
            "before": (-np.inf, value - 1),
            "after": (value, np.inf),
            "under": (-np.inf, value),
            "over": (value, np.inf),
        }
        low, high = ends.get(kind, (value, value))
        add(column, low, high, said[place - length].start if length else one.start(), one.end())
    return found


def _compared(said: list[Word], place: int) -> tuple[str, int]:
    """Which comparison stands before a number, and in how many words; "" for none."""
    for name in ("before", "after", "under", "over"):
        for length in (3, 2, 1):
            if place >= length and hearing().at(name, said, place - length) == length:
                return name, length
    return "", 0


def _meant(
    text: str, start: int, stop: int, value: float, year: Column | None, price: Column | None, compared: bool = False
) -> Column | None:
    """The column that a number is of: a price by its sign, or a year by its size."""
    after = key(text[stop : stop + 12])[:1]
    money = any(sign in text[start:stop] for sign in "$€£") or (
        after and hearing().whole("money", [Word(after[0], 0, 0, False)])
    )
    if money:
        return price
    if 1800 <= value <= 2100 and float(value).is_integer():
        return year
    return price if compared else None


def _vague(
    text: str,
    said: list[Word],
    year: Column | None,
    price: Column | None,
    skip: list[tuple[int, int]],
    taken: list[tuple[int, int]],
) -> list[Wished]:
    """Old, recent, cheap: a quarter of the catalogue."""
    found = []
    for name, column, share in (("recent", year, HIGH), ("old", year, LOW), ("cheap", price, LOW)):
        for at, word in enumerate(said):
            inside = any(start <= word.start < stop for start, stop in [*skip, *taken])
            if column is None or inside or hearing().at(name, said, at) != 1 or _compared(said, at + 2)[1] > 1:
                continue
            limit = float(np.nanquantile(column.numbers, share))
            low, high = (limit, np.inf) if share == HIGH else (-np.inf, limit)
            wanted = not negations(text, said, skip)[at]
            found.append(Wished(Wish(column.name, wanted, low=low, high=high), word.start, word.stop))
    return found[:1]


def _either(between: str, last: Wish, wish: Wish) -> bool:
    """Whether two values are said as `this or that`."""
    return key(between) == ("or",) and last.wanted and last.column == wish.column


def _forms(name: Key) -> set[Key]:
    """A value as people say it: its plural, and other words for it."""
    said = {name, *hearing().synonyms.get(name, [])}
    return said | {(*one[:-1], plural) for one in said for plural in _plurals(one[-1])}


def _plurals(word: str) -> set[str]:
    ending = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return {ending, singular(word)}
