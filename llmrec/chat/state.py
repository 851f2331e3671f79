"""What a dialogue remembers, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrec.chat.store import Store, Wish
from llmrec.chat.understand import Relation


@dataclass(frozen=True)
class Card:
    """A recommended item, as it is shown.

    Attributes:
        item_id, title, code: of it.
        traits: its attributes, by column.
        why: why it is here, shortly, and nothing that is not so.
    """

    item_id: str
    title: str
    code: str
    traits: list[tuple[str, str]]
    why: str


@dataclass(frozen=True)
class Question:
    """What was not understood for sure.

    Attributes:
        said: the words.
        offered: item ids that they may mean.
        liked: whether they were spoken of well.
    """

    said: str
    offered: list[str]
    liked: bool


@dataclass
class State:
    """Of one dialogue; items are named by id, since the catalogue may be changed.

    Attributes:
        liked: oldest first; what is liked anew goes to the end.
        disliked: never shown.
        wishes: of columns.
        missed: those of them that nothing fulfilled; they give way to the next wishes.
        about: free words that are wanted.
        seeds: items that the next ones are to be like.
        cards: shown now.
        shown: every item that was shown, in order.
        question: asked and not answered.
        said: (who, words) of every turn.
    """

    liked: list[str] = field(default_factory=list)
    disliked: list[str] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    missed: list[Wish] = field(default_factory=list)
    about: str = ""
    seeds: list[str] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    question: Question | None = None
    said: list[tuple[str, str]] = field(default_factory=list)

    def like(self, item_id: str) -> None:
        """Put an item at the end of what is liked."""
        self.disliked = [one for one in self.disliked if one != item_id]
        self.liked = [*(one for one in self.liked if one != item_id), item_id]

    def dislike(self, item_id: str) -> None:
        """Never show an item, nor go on from it."""
        self.liked = [one for one in self.liked if one != item_id]
        self.disliked = [*(one for one in self.disliked if one != item_id), item_id]

    def wish(self, new: list[Wish], also: bool) -> None:
        """Take wishes in: what is wanted of a column takes the place of what was, what is not wanted stays."""
        if new:
            self.wishes, self.missed = [one for one in self.wishes if one not in self.missed], []
        for wish in new:
            self.wishes = [one for one in self.wishes if not _contradict(one, wish)]
        if not also:
            columns = {wish.column for wish in new if wish.wanted}
            self.wishes = [one for one in self.wishes if not one.wanted or one.column not in columns]
        self.wishes = list(dict.fromkeys([*self.wishes, *new]))

    def relate(self, relation: Relation, store: Store) -> None:
        """Newer, older, cheaper than what the wishes start from, or than what is shown."""
        column = store.kind("number" if relation == "cheaper" else "year")
        base = self.seeds or [card.item_id for card in self.cards]
        known = [store.number[one] for one in base if one in store.number]
        values = column.numbers[known] if column is not None and known else np.zeros(0)
        if column is None or not np.isfinite(values).any():
            return
        middle, step = float(np.nanmedian(values)), 0.01 if relation == "cheaper" else 1.0
        newer = relation == "newer"
        wish = Wish(column.name, low=middle + step) if newer else Wish(column.name, high=middle - step)
        self.wish([wish], also=False)

    def transcript(self) -> dict[str, Any]:
        """All that was said and understood, as JSON."""
        cards = [{"item_id": card.item_id, "title": card.title, "why": card.why} for card in self.cards]
        return {
            "said": [{"who": who, "words": words} for who, words in self.said],
            "liked": self.liked,
            "disliked": self.disliked,
            "wishes": [str(wish) for wish in self.wishes] + ([self.about] if self.about else []),
            "cards": cards,
        }


def _contradict(old: Wish, new: Wish) -> bool:
    if old.column != new.column or bool(old.values) != bool(new.values):
        return False
    return not old.values or (old.wanted != new.wanted and bool({*old.values} & {*new.values}))
