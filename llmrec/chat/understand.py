"""What somebody means: titles that they like or do not, wishes, words about a card, and words that stay free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmrec.chat.mentions import Mention, find, negations
from llmrec.chat.store import Store, Wish
from llmrec.chat.titles import Titles
from llmrec.chat.wishes import Vocabulary, numbers
from llmrec.chat.words import Word, hearing, words

READ = 2000  # characters of a message that are read

Relation = Literal["newer", "older", "cheaper"]
_RELATIONS: tuple[Relation, ...] = ("newer", "older", "cheaper")


@dataclass(frozen=True)
class Understood:
    """One message.

    Attributes:
        mentions: titles, sure or not.
        wishes: of columns.
        cards: number of a card (from 1; -1 is the last) → whether it is liked.
        like_this: number of the card that the wishes start from; 0 for none.
        relations: newer, older or cheaper than what they start from.
        about: free words that are wanted and that are no value of a column.
        others: other items are wanted.
        also: wishes come beside the former ones instead of in their place.
        clear: former wishes are dropped.
        reset: the conversation begins again.
        answer: to a question of ours: number of what was offered, 0 for none of it, None where it is no answer.
        cut: more was said than is read.
    """

    mentions: list[Mention] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    cards: dict[int, bool] = field(default_factory=dict)
    like_this: int = 0
    relations: list[Relation] = field(default_factory=list)
    about: str = ""
    others: bool = False
    also: bool = False
    clear: bool = False
    reset: bool = False
    answer: int | None = None
    cut: bool = False

    @property
    def nothing(self) -> bool:
        """Whether the message says nothing that could be acted on."""
        said = self.mentions or self.wishes or self.cards or self.like_this or self.relations or self.about
        return not (said or self.others or self.clear or self.reset or self.answer is not None)


class Understanding:
    """Reads messages by what a catalogue holds."""

    def __init__(self, store: Store, titles: Titles) -> None:
        """Learn the catalogue."""
        self.store, self.titles, self._vocabulary = store, titles, Vocabulary(store)

    def read(self, text: str) -> Understood:
        """What a message means; the first `READ` characters of it are read."""
        cut, text = len(text) > READ, text[:READ]
        said, ears = words(text), hearing()
        if ears.whole("reset", said):
            return Understood(reset=True)
        answer = _answer(said)
        if answer is not None:
            return Understood(answer=answer, cards={} if ears.whole("yes", said) or not answer else {answer: True})
        mentions = find(text, said, self.titles, lambda place: self._vocabulary.at(said, place))
        titles = [(one.start, one.stop) for one in mentions]
        cards, like_this, pointed = _cards(text, said, titles)
        names = titles + pointed
        values = self._vocabulary.values(text, said, names)
        counted = numbers(text, said, self.store, [*names, *((one.start, one.stop) for one in values)])
        found = sorted([*values, *counted], key=lambda one: one.start)
        relations = [name for name in _RELATIONS if ears.anywhere(name, said)]
        others = ears.anywhere("others", said)
        spans = [*names, *((one.start, one.stop) for one in found)]
        return Understood(
            mentions=mentions,
            wishes=list(dict.fromkeys(one.wish for one in found)),
            cards=cards,
            like_this=like_this,
            relations=relations,
            about="" if others else _about(text, said, spans),
            others=others,
            also=ears.anywhere("also", said),
            clear=ears.anywhere("clear", said),
            cut=cut,
        )


def _answer(said: list[Word]) -> int | None:
    """A number or a yes or no by itself."""
    ears = hearing()
    if ears.whole("no", said):
        return 0
    if ears.whole("yes", said):
        return 1
    named = [word for word in said if word.text not in ("the", "one", "number", "i", "mean", "meant")]
    if len(named) != 1 or len(said) > 4:
        return None
    number = _ordinal(named[0])
    return number if number else None


def _cards(
    text: str, said: list[Word], skip: list[tuple[int, int]]
) -> tuple[dict[int, bool], int, list[tuple[int, int]]]:
    """Cards that are spoken of, the one that the wishes start from, and where both stand."""
    ears, denied, found, spans = hearing(), negations(text, said, skip), {}, []
    like_this = 0
    for at, word in enumerate(said):
        number = _ordinal(word)
        after = said[at + 1].text if at + 1 < len(said) else ""
        before = said[at - 1].text if at else ""
        if (
            not number
            or any(start <= word.start < stop for start, stop in skip)
            or not (after in ("one", "card") or before in ("number", "the", "card", "not", "no", "like", "and", "or"))
        ):
            continue
        start = at - 2 if at > 1 and said[at - 2].text == "like" else at - 1
        if at and (
            said[start].text == "like" and start > 0 and said[start - 1].text in ("more", "something", "one", "ones")
        ):
            like_this = number
        else:
            found[number] = not denied[at]
        spans.append((word.start, word.stop))
    for at in range(1, len(said)):
        length = ears.at("this", said, at)
        if length and said[at - 1].text == "like" and said[at].text in ("this", "that"):
            like_this = like_this or 1
            spans.append((said[at].start, said[at + length - 1].stop))
    return found, like_this, spans


def _ordinal(word: Word) -> int:
    """1 to 10, or -1 for the last; 0 where a word is no place in a list."""
    named = hearing().numbers["ordinals"].get(word.text, 0)
    return named or (int(word.text) if word.text in _DIGITS else 0)


_DIGITS = {str(number) for number in range(1, 11)}


def _about(text: str, said: list[Word], spans: list[tuple[int, int]]) -> str:
    """Words that say what is wanted and are nothing else; only where a word says that something is."""
    ears, denied = hearing(), negations(text, said, spans)
    free, wanted = [], False
    for at, word in enumerate(said):
        inside = any(start <= word.start < stop for start, stop in spans)
        wanted = wanted or bool(ears.at("about", said, at))
        control = any(ears.at(name, said, at) for name in ("liking", "negate", "newer", "older", "cheaper", "about"))
        if not (inside or control or denied[at] or ears.empty([word.text])):
            free.append(word.text)
    return " ".join(free) if wanted and 0 < len(free) <= 20 else ""
