"""The titles of a catalogue, as people write them: exact, nearly, or by what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from llmrec.chat.meaning import Meanings
from llmrec.chat.store import Store
from llmrec.chat.words import Key, key

LONGEST = 12  # words of a title that are looked for in a text
SURE, PERHAPS, APART = 88.0, 74.0, 4.0  # of 100: taken; asked about; ahead of the next one when taken
NEAR = 0.5  # cosine from which a description is asked about
_ARTICLE = re.compile(r"^(.*),\s*(the|a|an|le|la|les|l'|el|los|las|il|der|die|das)$", re.I)


@dataclass(frozen=True)
class Match:
    """What some words may name.

    Attributes:
        items: item numbers, the likeliest first; empty where nothing is like them.
        sure: whether the first is taken without asking.
    """

    items: list[int]
    sure: bool


class Titles:
    """Finds items by what they are called."""

    def __init__(self, store: Store, meanings: Meanings | None = None) -> None:
        """Learn the titles.

        Args:
            meanings: of the items; None finds no descriptions.
        """
        self.store, self._meanings = store, meanings
        self._exact: dict[Key, list[int]] = {}
        weak: dict[Key, list[int]] = {}
        for number, thing in enumerate(store.things):
            names, short = names_of(thing.title)
            for name in names:
                self._exact.setdefault(name, []).append(number)
            for name in short:
                weak.setdefault(name, []).append(number)
        for name, numbers in weak.items():
            self._exact.setdefault(name, numbers)
        self._spelled = {" ".join(name): numbers for name, numbers in self._exact.items() if name}
        self._spellings = list(self._spelled)

    def exact(self, name: Key) -> list[int]:
        """Item numbers of all titles that are these words."""
        return self._exact.get(name, [])

    def match(self, said: str, year: int | None = None) -> Match:
        """What somebody calls by these words, spelled roughly."""
        exact = self.of_year(self.exact(key(said)), year)
        if exact:
            return Match(exact, len(exact) == 1 or self.alike(exact))
        found = self._nearly(" ".join(_bare(key(said))))
        if found:
            first, best = self.of_year(found[0][0], year), found[0][1]
            ahead = best - next((score for numbers, score in found[1:] if not {*numbers} & {*first}), 0.0) >= APART
            offered = list(dict.fromkeys([*first, *(number for numbers, _ in found for number in numbers)]))
            return Match(offered[:3], best >= SURE and ahead and (len(first) == 1 or self.alike(first)))
        near = self._meanings.nearest(said, 3) if self._meanings and len(key(said)) > 1 else []
        return Match([number for number, score in near if score >= NEAR], False)

    def search(self, said: str, k: int = 10) -> list[int]:
        """Item numbers for a search box: titles that hold all the words, then titles spelled nearly so."""
        wanted = key(said)
        if not wanted:
            return []
        ranked = [(name, number) for name, numbers in self._exact.items() for number in numbers[:1]]
        inside = [number for name, number in ranked if all(any(w.startswith(one) for w in name) for one in wanted)]
        near = [number for numbers, _ in self._nearly(" ".join(wanted), k, 60.0) for number in numbers[:1]]
        return list(dict.fromkeys([*self.exact(wanted), *inside, *near]))[:k]

    def of_year(self, numbers: list[int], year: int | None) -> list[int]:
        """Those of a year, where it tells them apart."""
        column = self.store.kind("year")
        if year is None or column is None:
            return numbers
        return [number for number in numbers if column.numbers[number] == year] or numbers

    def alike(self, numbers: Sequence[int]) -> bool:
        """Whether items with one title cannot be told apart by anything that people say."""
        return len({tuple(self.store.traits(number)) for number in numbers}) == 1

    def _nearly(self, said: str, k: int = 5, least: float = PERHAPS) -> list[tuple[list[int], float]]:
        """(item numbers, score) of titles spelled nearly so, best first, each first item once."""
        if len(said) < 3:
            return []
        scored = process.extract(said, self._spellings, scorer=fuzz.ratio, limit=k, score_cutoff=least)
        if len(said.split()) > 1:  # some words of a long name
            scored += [
                (name, min(score, SURE - 1), at)
                for name, score, at in process.extract(said, self._spellings, scorer=fuzz.token_set_ratio, limit=k)
                if score >= 95
            ]
        found: dict[int, tuple[list[int], float]] = {}
        for name, score, _ in sorted(scored, key=lambda one: -one[1]):
            found.setdefault(self._spelled[name][0], (self._spelled[name], score))
        return list(found.values())[:k]


def _bare(name: Key) -> Key:
    """A name without its article."""
    return name[1:] if len(name) > 1 and name[0] in ("the", "a", "an") else name


def names_of(title: str) -> tuple[set[Key], set[Key]]:
    """What a title is called: its names, and shorter ones that give way to another title's name.

    `Matrix, The (1999)` is the matrix, and matrix; `Star Trek: Generations` may be called by what precedes the colon.
    """
    inner = [part for part in re.findall(r"[(\[]([^)\]]+)[)\]]", title) if not re.fullmatch(r"\d{4}", part)]
    outer = re.sub(r"[(\[][^)\]]*[)\]]", " ", title).strip()
    names = {key(title)}
    for part in (outer, *(re.sub(r"^a\.?k\.?a\.?\s+", "", one, flags=re.I) for one in inner)):
        turned = _ARTICLE.match(part.strip())
        names |= {key(f"{turned[2]} {turned[1]}"), key(turned[1])} if turned else {key(part)}
        names |= {_bare(key(part))}
    head = re.split(r":| - |,? or:? ", outer)[0]
    short = {key(head)} if head != outer and len("".join(key(head))) > 4 else set()
    return {name for name in names if name}, {name for name in short if name}
