"""Titles in what somebody says, and whether they like them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from llmrec.chat.titles import LONGEST, Match, Titles
from llmrec.chat.words import Word, hearing

_QUOTED = re.compile(r"[\"“«„]([^\"”»“]{1,200})[\"”»“]|(?<!\w)['‘]([^'’]{2,200})['’](?!\w)")
_YEAR = re.compile(r"\s*[(,]?\s*(?:from |of )?((?:18|19|20)\d\d)\)?(?!\d|s\b)")
_END = re.compile(r"[.!?;\n]")
GUESSES = 8  # rough spellings that are looked up in one message


@dataclass(frozen=True)
class Mention:
    """Words that name an item, or may.

    Attributes:
        start, stop: characters of the text.
        said: the words.
        match: what they may name.
        liked: false where they are spoken of badly.
        plain: written so that it must be a name; not knowing it is said.
    """

    start: int
    stop: int
    said: str
    match: Match
    liked: bool
    plain: bool


def find(text: str, said: list[Word], titles: Titles, value_at: Callable[[int], int]) -> list[Mention]:
    """The mentions of a text, in order.

    Args:
        said: its words.
        value_at: how many words from a place on are a value of an attribute, which is no title unless it is quoted.
    """
    ears = hearing()
    found = _quoted(text, titles)
    taken = [(one[0], one[1]) for one in found]
    found += _exact(text, said, titles, value_at, taken)
    found += _rough(text, said, titles, value_at, [(one[0], one[1]) for one in found])
    negative = negations(text, said, [(start, stop) for start, stop, *_ in found])
    mentions = []
    for start, stop, match, plain in sorted(found, key=lambda one: one[0]):
        first = next((at for at, word in enumerate(said) if word.stop > start), 0)
        after = next((at for at, word in enumerate(said) if word.start >= stop), len(said))
        bad = any(ears.at("bad_after", said, at) for at in range(after, min(after + 4, len(said))))
        denied = bad or (first < len(said) and negative[first])  # a quote may hold no word at all
        mentions.append(Mention(start, stop, text[start:stop], match, not denied, plain))
    return mentions


def negations(text: str, said: list[Word], names: list[tuple[int, int]]) -> list[bool]:
    """Whether each word is denied: from a negation on, until a word that asserts or the end of the sentence.

    A comma ends it only before a word that begins anew (`no horror, from the 90s`; but `no horror, war or western`).
    Words of names do neither.
    """
    ears, denied, now, at, last = hearing(), [False] * len(said), False, 0, -9
    while at < len(said):
        inside = any(start <= said[at].start < stop for start, stop in names)
        between = text[said[at - 1].stop : said[at].start] if at else ""
        if _END.search(between) or ("," in between and ears.at("anew", said, at)):
            now = False
        step = 0 if inside else ears.at("negate", said, at)
        if step:
            now, last = True, at + step - 1
        elif not inside and ears.at("assert", said, at) and at - last > 2:
            now = False
        for place in range(at, at + max(1, step)):
            denied[place] = now
        at += max(1, step)
    return denied


Found = tuple[int, int, Match, bool]


def _quoted(text: str, titles: Titles) -> list[Found]:
    found = []
    for quote in list(_QUOTED.finditer(text))[:GUESSES]:
        stop, year = _year(text, quote.end())
        found.append((quote.start(), stop, titles.match(quote[1] or quote[2], year), True))
    return found


def _exact(
    text: str,
    said: list[Word],
    titles: Titles,
    value_at: Callable[[int], int],
    taken: list[tuple[int, int]],
) -> list[Found]:
    """Titles written out, the longest first at each place."""
    found: list[Found] = []
    at, listening = 0, False
    ears = hearing()
    while at < len(said):
        length = 0 if _within(said[at], taken) else _title_at(said, at, titles, value_at, listening)
        if length:
            start = said[at].start
            stop, year = _year(text, said[at + length - 1].stop)
            numbers = titles.of_year(titles.exact(tuple(word.text for word in said[at : at + length])), year)
            found.append((start, stop, Match(numbers, len(numbers) == 1 or titles.alike(numbers)), True))
            at = next((place for place in range(at, len(said)) if said[place].start >= stop), len(said))
            continue
        cue = ears.at("liking", said, at)
        listening = bool(cue) or (listening and (ears.empty([said[at].text]) or _within(said[at], taken)))
        at += max(1, cue)
    return found


def _title_at(said: list[Word], at: int, titles: Titles, value_at: Callable[[int], int], listening: bool) -> int:
    """How many words from a place on are a title that is meant as one."""
    ears = hearing()
    for length in range(min(LONGEST, len(said) - at), 0, -1):
        part = said[at : at + length]
        if not titles.exact(tuple(word.text for word in part)):
            continue
        if length >= 3:
            return length
        if ears.empty([word.text for word in part]) or value_at(at) >= length:
            return 0
        meant = all(word.capital for word in part if not ears.empty([word.text]))
        if listening or meant:
            return length
    return 0


def _rough(
    text: str,
    said: list[Word],
    titles: Titles,
    value_at: Callable[[int], int],
    taken: list[tuple[int, int]],
) -> list[Found]:
    """Names spelled roughly: words with capitals, and what follows a word of liking."""
    found: list[Found] = []
    for first, last, capital in _spans(text, said, value_at, taken)[:GUESSES]:
        start = said[first].start
        stop, year = _year(text, said[last].stop)
        match = titles.match(text[start : said[last].stop], year)
        if match.items or capital:
            found.append((start, stop, match, capital))
    return found


def _spans(
    text: str, said: list[Word], value_at: Callable[[int], int], taken: list[tuple[int, int]]
) -> list[tuple[int, int, bool]]:
    """(first word, last word, whether with capitals) of what may be a name."""
    ears, spans, at, listening = hearing(), [], 0, False
    while at < len(said):
        cue = ears.at("liking", said, at)
        if cue and not _within(said[at], taken):
            listening, at = True, at + cue
            continue
        if _within(said[at], taken) or value_at(at) or (ears.empty([said[at].text]) and not _article(said, at)):
            listening = listening and (
                said[at].text in ("and", "or", "also", "the", "really") or _within(said[at], taken)
            )
            at += max(1, value_at(at))
            continue
        last = _end(text, said, at, value_at, taken)
        part = [word for word in said[at : last + 1] if not ears.empty([word.text]) and not word.text[0].isdigit()]
        capital = bool(part) and all(word.capital for word in part) and (at > 0 or len(part) > 1)
        if part and (capital or listening):
            spans.append((at, last, capital))
        at, listening = last + 1, listening and bool(part)
    return spans


def _end(text: str, said: list[Word], at: int, value_at: Callable[[int], int], taken: list[tuple[int, int]]) -> int:
    """The last word of a name that begins at a place: before punctuation, and, but, a value or another name."""
    last = at
    while last + 1 < len(said) and last - at < LONGEST:
        between, word = text[said[last].stop : said[last + 1].start], said[last + 1]
        stops = word.text in ("and", "but", "or", "because", "so", "please") or value_at(last + 1)
        if re.search(r"[.,;!?()\n]", between) or stops or _within(word, taken):
            break
        last += 1
    return last


def _article(said: list[Word], at: int) -> bool:
    return said[at].text in ("the", "a", "an") and said[at].capital and at > 0


def _within(word: Word, taken: list[tuple[int, int]]) -> bool:
    return any(start <= word.start < stop for start, stop in taken)


def _year(text: str, stop: int) -> tuple[int, int | None]:
    """Where a mention ends, and the year that is said right after it."""
    after = _YEAR.match(text, stop)
    return (after.end(), int(after[1])) if after else (stop, None)
