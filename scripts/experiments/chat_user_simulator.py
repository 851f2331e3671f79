"""A simulated guest: knows a few titles, answers from what they are known to like and the model was not told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from llmrec.chat.dialogue import Dialogue
from llmrec.chat.store import Store

_OPENINGS = ("I liked {}.", "hi, i enjoyed {}", "My favourites are {}.", "Lately I watched {} and loved them.")
_VALUES = ("None of these. I would rather have {}.", "Something else please, maybe {}.", "Show me more, but {}.")
_YEARS = ("None of these, it should be from the {}s.", "Something else, from the {}s please.")
_DENIALS = ("Something else, and no {} please.", "None of these. Anything but {}.")
_CLICKS = ("I like number {}, show me more.", "The {} one is good. What else?")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Saying:
    """One turn of a guest.

    Attributes:
        words: what is said.
        picks: items that are liked by it, for a chat that takes clicks and reads no words.
    """

    words: str
    picks: list[str]


class SimulatedUser:
    """One simulated person.

    Attributes:
        wanted: item numbers that they would take: held out from training.
    """

    def __init__(self, store: Store, known: list[int], wanted: list[int], draw: np.random.Generator) -> None:
        """Come in.

        Args:
            known: item numbers that they name at first.
            wanted: item numbers that they would take.
            draw: what their wording depends on.
        """
        self.store, self.known, self.wanted, self._draw = store, known, wanted, draw
        self._found: set[int] = set()

    def open(self) -> Saying:
        """Name what they know, one of them misspelled now and then."""
        titles = [self._typed(self.store.items[one].title) for one in self.known]
        named = " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)
        return Saying(self._one(_OPENINGS).format(named), [self.store.items[one].item_id for one in self.known])

    def answer(self, shown: list[str], turn: int) -> Saying:
        """What they say to some cards, none of which they would take; one thing a turn.

        Args:
            shown: item ids of the cards.
            turn: 1 after the first cards.
        """
        target = next((one for one in self.wanted if one not in self._found), self.wanted[0])
        ways = (self._value, self._year, self._click, self._denial)
        for at in range(len(ways)):
            said = ways[(turn - 1 + at) % len(ways)](target, shown)
            if said is not None:
                return said
        return Saying("Show me others.", [])

    def meet(self, shown: list[str]) -> None:
        """Notice what of the wanted is shown."""
        self._found |= {one for one in self.wanted if self.store.items[one].item_id in shown}

    def _value(self, target: int, shown: list[str]) -> Saying | None:
        values = sorted(value for _, value in self.store.values(target))
        return Saying(self._one(_VALUES).format(_asked(self._one(tuple(values)))), []) if values else None

    def _year(self, target: int, shown: list[str]) -> Saying | None:
        column = self.store.kind("year")
        year = column.numbers[target] if column is not None else np.nan
        return Saying(self._one(_YEARS).format(int(year) // 10 * 10), []) if np.isfinite(year) else None

    def _denial(self, target: int, shown: list[str]) -> Saying | None:
        """No more of what is shown most and what the target is not."""
        own = self.store.values(target)
        counts = Counter(value for one in shown for value in sorted(self.store.values(self.store.number[one]) - own))
        return Saying(self._one(_DENIALS).format(counts.most_common(1)[0][0][1]), []) if counts else None

    def _click(self, target: int, shown: list[str]) -> Saying | None:
        """The card that shares most with the target, where one shares anything."""
        own = self.store.values(target)
        alike = [len(own & self.store.values(self.store.number[one])) for one in shown]
        if not alike or not max(alike):
            return None
        best = int(np.argmax(alike))
        form = self._one(_CLICKS)
        place = _ORDINALS[best] if "The" in form else str(best + 1)
        return Saying(form.format(place), [shown[best]])

    def _typed(self, title: str) -> str:
        """A title as people type it: articles in front, in small letters, sometimes two letters in the wrong order."""
        head, comma, article = title.rpartition(", ")
        typed = f"{article} {head}" if comma and article.lower() in ("the", "a", "an") else title
        at = int(self._draw.integers(1, max(2, len(typed) - 2)))
        if len(typed) > 6 and self._draw.random() < 0.2:
            typed = typed[:at] + typed[at + 1] + typed[at] + typed[at + 2 :]
        return typed.lower() if self._draw.random() < 0.5 else typed

    def _one(self, forms: tuple[str, ...]) -> str:
        return forms[int(self._draw.integers(len(forms)))]


def play(guest: SimulatedUser, dialogue: Dialogue, turns: int, reads: bool) -> list[list[str]]:
    """A dialogue between a guest and the chat.

    Args:
        turns: lists that are shown.
        reads: whether the chat understands words; otherwise it takes the clicks that they stand for, and shows others.

    Returns:
        Item ids that each turn shows.
    """
    lists: list[list[str]] = []
    for turn in range(turns):
        said = guest.answer(lists[-1], turn) if turn else guest.open()
        if reads:
            dialogue.hear(said.words)
        else:
            for pick in said.picks[:-1]:
                dialogue.state.judge(pick, True)
            dialogue.like(said.picks[-1], others=turn > 0) if said.picks else dialogue.others()
        shown = [card.item_id for card in dialogue.state.cards]
        guest.meet(shown)
        lists.append(shown)
    return lists


def _asked(value: str) -> str:
    """A value in a sentence: `a comedy`."""
    return f"{'an' if value[0].lower() in 'aeiou' else 'a'} {value}"
