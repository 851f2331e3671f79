"""Titles as people write them, exactly, nearly, or by what they mean; and where a message names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz, process

from llmrec.chat.store import SemanticIndex, Store
from llmrec.chat.words import Key, Message, Span, is_filler, key

LONGEST = 12  # words of a title that are looked for in a text
SURE, PERHAPS, APART = 88.0, 74.0, 4.0  # of 100: taken; asked about; ahead of the next one when taken
NEAR = 0.5  # cosine from which a description is asked about
GUESSES = 8  # rough spellings that are looked up in one message
_ARTICLE = re.compile(r"^(.*),\s*(the|a|an|le|la|les|l'|el|los|las|il|der|die|das)$", re.I)
_QUOTED = re.compile(r"[\"“«„]([^\"”»“]{1,200})[\"”»“]|(?<!\w)['‘]([^'’]{2,200})['’](?!\w)")
_YEAR = re.compile(r"\s*[(,]?\s*(?:from |of )?((?:18|19|20)\d\d)\)?(?!\d|s\b)")


@dataclass(frozen=True)
class Match:
    """Items that some words may name, the likeliest first, and whether that one is taken without asking."""

    items: list[int]
    sure: bool


@dataclass(frozen=True)
class Mention:
    """Words that name an item, or may.

    Attributes:
        start, stop: characters of the message.
        text: the words.
        liked: false where they are spoken of badly.
        plain: written so that it must be a name; not knowing it is said.
    """

    start: int
    stop: int
    text: str
    match: Match
    liked: bool
    plain: bool


class Titles:
    """Finds items by what they are called; by descriptions, too, where it has their vectors."""

    def __init__(self, store: Store, meanings: SemanticIndex | None = None) -> None:
        self.store, self._meanings = store, meanings
        self._exact: dict[Key, list[int]] = {}
        weak: dict[Key, list[int]] = {}
        for number, item in enumerate(store.items):
            names, short = names_of(item.title)
            for name in names:
                self._exact.setdefault(name, []).append(number)
            for name in short:
                weak.setdefault(name, []).append(number)
        self._exact = {**self._exact, **weak, **self._exact}  # a whole title goes before a part of another
        self._spelled = {" ".join(name): numbers for name, numbers in self._exact.items()}
        self._names = list(self._spelled)

    def exact(self, name: Key) -> list[int]:
        """Item numbers of all titles that are these words."""
        return self._exact.get(name, [])

    def match_exact(self, name: Key, year: int | None) -> Match:
        """The items that are called exactly so; sure where there is one, or nothing tells them apart."""
        items = self._of_year(self.exact(name), year)
        return Match(items, len(items) == 1 or self.alike(items))

    def match(self, text: str, year: int | None = None) -> Match:
        """What these words, spelled roughly, may name."""
        name = key(text)
        if self.exact(name):
            return self.match_exact(name, year)
        near = self._nearly(" ".join(_bare(name)))
        if near:
            first, best = self._of_year(near[0][0], year), near[0][1]
            ahead = best - next((score for items, score in near[1:] if not {*items} & {*first}), 0.0) >= APART
            offered = list(dict.fromkeys([*first, *(number for items, _ in near for number in items)]))
            return Match(offered[:3], best >= SURE and ahead and (len(first) == 1 or self.alike(first)))
        if self._meanings is None or len(name) < 2:
            return Match([], False)
        cosine = self._meanings.to_text(text)
        return Match([at for at in np.argsort(-cosine, kind="stable")[:3].tolist() if cosine[at] >= NEAR], False)

    def search(self, text: str, k: int = 10) -> list[int]:
        """Item numbers for a search box: titles that hold all the words, then titles spelled nearly so."""
        wanted = key(text)
        if not wanted:
            return []
        inside = [
            items[0]
            for name, items in self._exact.items()
            if all(any(word.startswith(part) for word in name) for part in wanted)
        ]
        near = [items[0] for items, _ in self._nearly(" ".join(wanted), k, 60.0)]
        return list(dict.fromkeys([*self.exact(wanted), *inside, *near]))[:k]

    def alike(self, items: Sequence[int]) -> bool:
        """Whether items with one title cannot be told apart by anything that people say."""
        return len({tuple(self.store.traits(number)) for number in items}) == 1

    def _of_year(self, items: list[int], year: int | None) -> list[int]:
        """Those of a year, where it tells them apart."""
        column = self.store.kind("year")
        if year is None or column is None:
            return items
        return [number for number in items if column.numbers[number] == year] or items

    def _nearly(self, text: str, k: int = 5, least: float = PERHAPS) -> list[tuple[list[int], float]]:
        """(item numbers, score) of titles spelled nearly so, best first, each first item once."""
        if len(text) < 3:
            return []
        scored = process.extract(text, self._names, scorer=fuzz.ratio, limit=k, score_cutoff=least)
        if " " in text:  # some words of a long name
            parts = process.extract(text, self._names, scorer=fuzz.token_set_ratio, limit=k, score_cutoff=95)
            scored += [(name, min(score, SURE - 1), at) for name, score, at in parts]
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
    return names - {()}, short


def find_mentions(message: Message, titles: Titles, values: list[int]) -> list[Mention]:
    """The titles that a message names, in order: quoted, written out, or spelled roughly.

    Args:
        values: (words,) how many words from each on are a value of an attribute, which is no title unless quoted.
    """
    found = _quoted(message.text, titles)
    found += _written(message, titles, values, message.inside([one[0] for one in found]))
    found += _misspelled(message, titles, values, message.inside([one[0] for one in found]))
    negated = message.negated([span for span, _, _ in found])
    mentions = []
    for (start, stop), match, plain in sorted(found, key=lambda one: one[0][0]):
        first, after = message.place(start), message.place(stop)
        bad = any(message.phrase("bad_after", place) for place in range(after, min(after + 4, len(message))))
        liked = not bad and not (first < len(message) and negated[first])  # a quote may hold no word at all
        mentions.append(Mention(start, stop, message.text[start:stop], match, liked, plain))
    return mentions


Found = list[tuple[Span, Match, bool]]  # where, what, and whether it is plainly a name


def _quoted(text: str, titles: Titles) -> Found:
    found: Found = []
    for quote in list(_QUOTED.finditer(text))[:GUESSES]:
        stop, year = _year(text, quote.end())
        found.append(((quote.start(), stop), titles.match(quote[1] or quote[2], year), True))
    return found


def _written(message: Message, titles: Titles, values: list[int], quoted: list[bool]) -> Found:
    """Titles written out, the longest first at each place."""
    found: Found = []
    words, place, listening = message.words, 0, False
    while place < len(words):
        length = 0 if quoted[place] else _title_length(message, place, titles, values, listening)
        if length:
            stop, year = _year(message.text, words[place + length - 1].stop)
            match = titles.match_exact(message.key(place, place + length), year)
            found.append(((words[place].start, stop), match, True))
            place = next((at for at in range(place, len(words)) if words[at].start >= stop), len(words))
        else:
            cue = message.phrase("liking", place)
            listening = bool(cue) or (listening and (is_filler(words[place].text) or quoted[place]))
            place += max(1, cue)
    return found


def _title_length(message: Message, place: int, titles: Titles, values: list[int], listening: bool) -> int:
    """How many words from a place on are a title that is meant as one."""
    for length in range(min(LONGEST, len(message) - place), 0, -1):
        name = message.key(place, place + length)
        if titles.exact(name):
            if length >= 3:
                return length
            if is_filler(*name) or values[place] >= length:
                return 0
            part = message.words[place : place + length]
            if listening or all(word.capital for word in part if not is_filler(word.text)):
                return length
    return 0


def _misspelled(message: Message, titles: Titles, values: list[int], named: list[bool]) -> Found:
    """Names spelled roughly: words with capitals, and what follows a word of liking."""
    found: Found = []
    words, place, listening, guesses = message.words, 0, False, 0
    while place < len(words) and guesses < GUESSES:
        word, cue = words[place], message.phrase("liking", place)
        article = word.text in ("the", "a", "an") and word.capital and place > 0
        if cue and not named[place]:
            listening, place = True, place + cue
        elif named[place] or values[place] or (is_filler(word.text) and not article):
            listening &= word.text in ("and", "or", "also", "the", "really") or named[place]
            place += max(1, values[place])
        else:
            last = _last_of_name(message, place, values, named)
            part = [one for one in words[place : last + 1] if not is_filler(one.text) and not one.text[0].isdigit()]
            capital = bool(part) and all(one.capital for one in part) and (place > 0 or len(part) > 1)
            if part and (capital or listening):
                guesses += 1
                stop, year = _year(message.text, words[last].stop)
                match = titles.match(message.text[word.start : words[last].stop], year)
                if match.items or capital:
                    found.append(((word.start, stop), match, capital))
            place, listening = last + 1, listening and bool(part)
    return found


def _last_of_name(message: Message, place: int, values: list[int], named: list[bool]) -> int:
    """The last word of a name that begins at a place: before punctuation, and, but, a value or another name."""
    last, words = place, message.words
    while last + 1 < len(words) and last - place < LONGEST:
        between, following = message.text[words[last].stop : words[last + 1].start], words[last + 1].text
        stops = following in ("and", "but", "or", "because", "so", "please") or values[last + 1] or named[last + 1]
        if stops or re.search(r"[.,;!?()\n]", between):
            break
        last += 1
    return last


def _year(text: str, stop: int) -> tuple[int, int | None]:
    """Where a mention ends, and the year that is said right after it."""
    after = _YEAR.match(text, stop)
    return (after.end(), int(after[1])) if after else (stop, None)
