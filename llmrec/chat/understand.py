"""What a message means: titles that are liked or not, constraints, words about a card, and words that stay free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from llmrec.chat.store import Column, ItemConstraint, Store
from llmrec.chat.titles import Mention, Titles, find_mentions
from llmrec.chat.words import Key, Message, Span, Word, is_filler, key, lexicon

READ = 2000  # characters of a message that are read

Relation = Literal["newer", "older", "cheaper"]
_RELATIONS: tuple[Relation, ...] = ("newer", "older", "cheaper")
_DECADE = re.compile(r"(?<!\d)(?:(1[89]|20)?(\d0))['’]?s\b")
_BETWEEN = re.compile(
    r"(?:between |from )?[$€£]?(\d+(?:\.\d+)?)\s*(?:-|–|to|and|until)\s*[$€£]?(\d+(?:\.\d+)?)(?!\d|['’]?s\b)"
)
_NUMBER = re.compile(r"[$€£]?\s?(\d+(?:[.,]\d{1,2})?)(?!\d|['’]?s\b)")


@dataclass(frozen=True)
class Understood:
    """One message.

    Attributes:
        mentions: titles, sure or not.
        cards: number of a card (from 1; -1 is the last) → whether it is liked.
        like_this: number of the card that the constraints start from; 0 for none.
        relations: to what the constraints start from.
        about: free words that are wanted and that are no value of a column.
        others: other items are wanted.
        also: constraints come beside the former ones instead of in their place.
        clear: former constraints are dropped.
        reset: the conversation begins again.
        answer: to a question of ours: number of what was offered, 0 for none of it, None where it is no answer.
    """

    mentions: list[Mention] = field(default_factory=list)
    constraints: list[ItemConstraint] = field(default_factory=list)
    cards: dict[int, bool] = field(default_factory=dict)
    like_this: int = 0
    relations: list[Relation] = field(default_factory=list)
    about: str = ""
    others: bool = False
    also: bool = False
    clear: bool = False
    reset: bool = False
    answer: int | None = None

    @property
    def nothing(self) -> bool:
        """Whether the message says nothing that could be acted on."""
        return self == Understood(also=self.also)


class Understanding:
    """Reads messages by what a catalogue holds."""

    def __init__(self, store: Store, titles: Titles) -> None:
        self.store, self.titles = store, titles
        self._small: dict[Key, ItemConstraint] = {}
        self._large: dict[Key, ItemConstraint] = {}
        for column in store.columns.values():
            for name, value in column.shown.items():
                for form in _forms(name) if column.small else [name]:
                    known = self._small if column.small else self._large
                    known.setdefault(form, ItemConstraint(column.name, values=(value,)))

    def read(self, text: str) -> Understood:
        """What a message means; the first `READ` characters of it are read."""
        message = Message(text[:READ])
        if message.is_phrase("reset"):
            return Understood(reset=True)
        answer = _answer(message)
        if answer is not None:
            card = answer and not message.is_phrase("yes")
            return Understood(answer=answer, cards={answer: True} if card else {})
        values = [self._value(message, place) for place in range(len(message))]
        mentions = find_mentions(message, self.titles, [length for length, _ in values])
        titles = [(one.start, one.stop) for one in mentions]
        cards, like_this, pointed = _cards(message, titles)
        names = titles + pointed
        found = _wanted_values(message, values, names)
        found += _wanted_numbers(message, self.store, names + [span for span, _ in found])
        found.sort(key=lambda one: one[0][0])
        others = message.has("others")
        return Understood(
            mentions=mentions,
            constraints=list(dict.fromkeys(constraint for _, constraint in found)),
            cards=cards,
            like_this=like_this,
            relations=[name for name in _RELATIONS if message.has(name)],
            about="" if others else _about(message, names + [span for span, _ in found]),
            others=others,
            also=message.has("also"),
            clear=message.has("clear"),
        )

    def _value(self, message: Message, place: int) -> tuple[int, ItemConstraint | None]:
        """How many words from a place on are a value, and the constraint that it is."""
        for length in range(min(5, len(message) - place), 0, -1):
            name = message.key(place, place + length)
            if name in self._small and not is_filler(*name):
                return length, self._small[name]
            # a large vocabulary (brands) holds ordinary words: said with a capital letter, or as "by …"
            if name in self._large and place > 0:
                capital = all(word.capital for word in message.words[place : place + length])
                if capital or message.phrase("by", place - 1) == 1:
                    return length, self._large[name]
        return 0, None


def _forms(name: Key) -> set[Key]:
    """A value as people say it: its plural or singular, and other words for it."""
    forms = set()
    for *before, word in (name, *lexicon()["synonyms"].get(name, [])):
        plural = word[:-1] + "ies" if word.endswith("y") else word + "s"
        forms |= {(*before, form) for form in (word, plural, _singular(word))}
    return forms


def _singular(word: str) -> str:
    """A word without its plural, roughly: comedies, westerns."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


Found = list[tuple[Span, ItemConstraint]]


def _wanted_values(message: Message, values: list[tuple[int, ItemConstraint | None]], names: list[Span]) -> Found:
    """Values that are said, outside of names; of `this or that` one constraint is made."""
    found: Found = []
    negated, inside, place = message.negated(names), message.inside(names), 0
    while place < len(message):
        length, constraint = (0, None) if inside[place] else values[place]
        if constraint:
            start, stop = message.words[place].start, message.words[place + length - 1].stop
            constraint = replace(constraint, wanted=not negated[place])
            if found and constraint.wanted and found[-1][1].wanted and found[-1][1].column == constraint.column:
                (begin, end), last = found[-1]
                if key(message.text[end:start]) == ("or",):
                    found.pop()
                    start, constraint = begin, replace(last, values=last.values + constraint.values)
            found.append(((start, stop), constraint))
        place += max(1, length)
    return found


def _wanted_numbers(message: Message, store: Store, taken: list[Span]) -> Found:
    """Years and prices that are said, and old, recent, cheap: a quarter of the catalogue."""
    text, negated = message.masked(taken), message.negated(taken)
    found: Found = []
    for (start, stop), column, low, high in _ranges(message, text, store):
        if column and not any(begin < stop and start < end for (begin, end), _ in found):
            inside = [word.text for word in message.words if word.start >= start and word.stop <= stop]
            place = message.place(start)
            denied = place < len(message) and negated[place] and not {"no", "not"} & {*inside}  # `no newer than`
            found.append(((start, stop), ItemConstraint(column.name, not denied, low=low, high=high)))
    inside_names = message.inside(taken + [span for span, _ in found])
    for name, kind, share in (("recent", "year", 0.75), ("old", "year", 0.25), ("cheap", "number", 0.25)):
        column = store.kind(kind)
        for place, word in enumerate(message.words):
            if column and not inside_names[place] and message.phrase(name, place) == 1:
                limit = float(np.nanquantile(column.numbers, share))
                low, high = (limit, np.inf) if share > 0.5 else (-np.inf, limit)
                vague = ItemConstraint(column.name, not negated[place], low=low, high=high)
                return [*found, ((word.start, word.stop), vague)]
    return found


def _ranges(message: Message, text: str, store: Store) -> Iterator[tuple[Span, Column | None, float, float]]:
    """Where a year or a price is said, its column, lowest and highest; the clearest forms first.

    Args:
        text: the message, names and values masked.
    """
    year, price = store.kind("year"), store.kind("number")
    for decade in _DECADE.finditer(text):
        begin = float((decade[1] or ("20" if decade[2] < "30" else "19")) + decade[2])
        yield decade.span(), year, begin, begin + 9
    for word in message.words:
        begin = float(lexicon()["decades"].get(word.text, 0))
        if begin and text[word.start] == message.text[word.start]:
            yield (word.start, word.stop), year, begin, begin + 9
    for pair in _BETWEEN.finditer(text):
        low, high = sorted((float(pair[1]), float(pair[2])))
        yield pair.span(), _column_of(text, pair.span(), low, year, price, False), low, high
    for one in _NUMBER.finditer(text):
        value = float(one[1].replace(",", "."))
        place = next((at for at, word in enumerate(message.words) if word.start >= one.start(1)), len(message))
        comparison, length = _comparison(message, place)
        column = _column_of(text, one.span(), value, year, price, bool(comparison))
        low = value if comparison not in ("before", "under") else -np.inf
        high = np.inf if comparison in ("after", "over") else value - (comparison == "before")
        yield (message.words[place - length].start if length else one.start(), one.end()), column, low, high


def _comparison(message: Message, place: int) -> tuple[str, int]:
    """Which comparison stands before a number, and in how many words; "" for none."""
    for name in ("before", "after", "under", "over"):
        for length in (3, 2, 1):
            if place >= length and message.phrase(name, place - length) == length:
                return name, length
    return "", 0


def _column_of(
    text: str, span: Span, value: float, year: Column | None, price: Column | None, compared: bool
) -> Column | None:
    """The column that a number is of: a price by its sign, or a year by its size."""
    start, stop = span
    after = key(text[stop : stop + 12])[:1]
    if any(sign in text[start:stop] for sign in "$€£") or after in lexicon()["money"]:
        return price
    if 1800 <= value <= 2100 and value.is_integer():
        return year
    return price if compared else None


def _answer(message: Message) -> int | None:
    """The number that a message is by itself; 1 for yes, 0 for no, None for all else."""
    if message.is_phrase("no") or message.is_phrase("yes"):
        return int(message.is_phrase("yes"))
    named = [word for word in message.words if word.text not in ("the", "one", "number", "i", "mean", "meant")]
    return (_ordinal(named[0]) or None) if len(named) == 1 and len(message) <= 4 else None


def _cards(message: Message, names: list[Span]) -> tuple[dict[int, bool], int, list[Span]]:
    """Cards that are spoken of, the one that the constraints start from, and where both stand."""
    texts, negated, inside = message.key(), message.negated(names), message.inside(names)
    cards: dict[int, bool] = {}
    spans: list[Span] = []
    like_this = 0
    for place, word in enumerate(message.words):
        number = 0 if inside[place] else _ordinal(word)
        before, after = texts[:place][-1:], texts[place + 1 : place + 2]
        pointed = {*after} & {"one", "card"} or {*before} & {
            *("number", "the", "card", "not", "no", "like", "and", "or")
        }
        if number and pointed:
            start = place - 2 if place > 1 and texts[place - 2] == "like" else place - 1
            if start > 0 and texts[start] == "like" and texts[start - 1] in ("more", "something", "one", "ones"):
                like_this = number
            else:
                cards[number] = not negated[place]
            spans.append((word.start, word.stop))
    for place in range(1, len(message)):
        length = message.phrase("this", place)
        if length and texts[place - 1] == "like":
            like_this = like_this or 1
            spans.append((message.words[place].start, message.words[place + length - 1].stop))
    return cards, like_this, spans


def _ordinal(word: Word) -> int:
    """1 to 10, or -1 for the last; 0 where a word is no place in a list."""
    digits = word.text.isdecimal() and word.text.isascii() and word.text[0] != "0" and len(word.text) < 3
    number = int(word.text) if digits else int(lexicon()["ordinals"].get(word.text, 0))
    return number if number <= 10 else 0


def _about(message: Message, spans: list[Span]) -> str:
    """Words that say what is wanted and are nothing else; only where a word says that something is."""
    negated, inside = message.negated(spans), message.inside(spans)
    controls = ("about", "liking", "negate", "newer", "older", "cheaper")
    control = [any(message.phrase(name, place) for name in controls) for place in range(len(message))]
    free = [
        word.text
        for place, word in enumerate(message.words)
        if not (inside[place] or control[place] or negated[place] or is_filler(word.text))
    ]
    return " ".join(free) if len(free) <= 20 and message.has("about") else ""
