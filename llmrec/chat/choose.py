"""What a dialogue remembers, and the items that it shows: constraints as filters, the model's ranking, nearness."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrec.chat.client import Client, Declined, Recommended
from llmrec.chat.store import ItemConstraint, SemanticIndex, Store
from llmrec.chat.understand import Relation

LISTED = 10_000  # items that a request may list
POOL = 100  # items that are ranked again by nearness in meaning


@dataclass(frozen=True)
class Card:
    """A recommended item as it is shown, its attributes by column, and why it is here."""

    item_id: str
    title: str
    code: str
    traits: list[tuple[str, str]]
    why: str


@dataclass(frozen=True)
class Question:
    """Words that may mean several items, whose ids are offered, and whether they were spoken of well."""

    text: str
    offered: list[str]
    liked: bool


@dataclass
class State:
    """Of one dialogue; items are named by id, since the catalogue may be changed.

    Attributes:
        liked: oldest first; what is liked anew goes to the end.
        disliked: never shown.
        missed: constraints that nothing met; they give way to the next ones.
        about: free words that are wanted.
        seeds: items that the next ones are to be like.
        cards: shown now.
        shown: every item that was shown, in order.
        question: asked and not answered.
        said: (person or llmrec, words) of every turn.
    """

    liked: list[str] = field(default_factory=list)
    disliked: list[str] = field(default_factory=list)
    constraints: list[ItemConstraint] = field(default_factory=list)
    missed: list[ItemConstraint] = field(default_factory=list)
    about: str = ""
    seeds: list[str] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    question: Question | None = None
    said: list[tuple[str, str]] = field(default_factory=list)

    def judge(self, item_id: str, liked: bool) -> None:
        """Put an item at the end of what is liked or disliked."""
        for items in (self.liked, self.disliked):
            if item_id in items:
                items.remove(item_id)
        (self.liked if liked else self.disliked).append(item_id)

    def constrain(self, new: list[ItemConstraint], also: bool = False) -> None:
        """Add constraints: what is wanted of a column takes the place of what was, what is not wanted stays."""
        kept = [one for one in self.constraints if not new or one not in self.missed]
        kept = [one for one in kept if not any(_contradict(one, other) for other in new)]
        replaced = set() if also else {one.column for one in new if one.wanted}
        kept = [one for one in kept if not one.wanted or one.column not in replaced]
        self.constraints = list(dict.fromkeys([*kept, *new]))
        self.missed = [] if new else self.missed

    def relate(self, relation: Relation, store: Store) -> None:
        """Constrain to newer, older or cheaper than the median of the seeds, or of what is shown."""
        column = store.kind("number" if relation == "cheaper" else "year")
        base = self.seeds or [card.item_id for card in self.cards]
        known = [store.number[one] for one in base if one in store.number]
        values = column.numbers[known] if column is not None and known else np.zeros(0)
        if column is None or not np.isfinite(values).any():
            return
        middle, step = float(np.nanmedian(values)), 0.01 if relation == "cheaper" else 1.0
        newer = ItemConstraint(column.name, low=middle + step)
        self.constrain([newer if relation == "newer" else ItemConstraint(column.name, high=middle - step)])

    def wishes(self) -> list[str]:
        """Constraints and free words, as they are shown."""
        return [*map(str, self.constraints), *([f"“{self.about}”"] if self.about else [])]

    def transcript(self) -> dict[str, Any]:
        """All that was said and understood, as JSON."""
        return {
            "said": [{"who": who, "words": words} for who, words in self.said],
            "liked": self.liked,
            "disliked": self.disliked,
            "wishes": [*map(str, self.constraints), *([self.about] if self.about else [])],
            "cards": [{"item_id": card.item_id, "title": card.title, "why": card.why} for card in self.cards],
        }


def _contradict(old: ItemConstraint, new: ItemConstraint) -> bool:
    if old.column != new.column or bool(old.values) != bool(new.values):
        return False
    return not old.values or (old.wanted != new.wanted and bool({*old.values} & {*new.values}))


@dataclass(frozen=True)
class Selection:
    """Items to show.

    Attributes:
        items: item numbers, best first.
        missed: constraints that nothing meets; the items are the nearest.
        ranked_by: model or popularity, or catalogue where the server could do neither.
    """

    items: list[int]
    missed: list[ItemConstraint]
    ranked_by: str


class ItemSelector:
    """Selects items by a server's ranking.

    Args:
        index: vectors of the store's items; None leaves free words without effect.
        queries: the model was trained to search by free words.
    """

    def __init__(self, client: Client, store: Store, index: SemanticIndex | None = None, queries: bool = False) -> None:
        self.client, self.store, self.index, self.queries = client, store, index, queries

    def select(self, state: State, k: int, without: Iterable[str] = ()) -> Selection:
        """The next items, none of which are liked, disliked, or of the ids `without`.

        Raises:
            ServerDown: nothing answers.
        """
        hidden = {*state.liked, *state.disliked, *without}
        free = np.array([item.item_id not in hidden for item in self.store.items], bool)
        fits, missed = self._fits(state.constraints, free, k)
        if not fits.any():
            return Selection([], missed, "model")
        near = self._nearness(state)
        request = self._filter(fits, [one for one in state.constraints if one not in missed], hidden)
        reply = self._recommend(state, request, k if near is None else max(k, POOL))
        if reply is None:
            return Selection(np.flatnonzero(fits)[:k].tolist(), missed, "catalogue")
        scores = self._fitting(reply, fits)
        if "where" in request and len(scores) < min(k, int(fits.sum())):  # it let others through, in the places of ours
            numbers = np.flatnonzero(fits)
            if near is not None:
                numbers = numbers[np.argsort(-near[numbers], kind="stable")]
            further = self._recommend(state, {"allow": self._ids(numbers[:LISTED])}, k)
            scores = (self._fitting(further, fits) if further else {}) | scores
        items = sorted(scores, key=lambda item: -scores[item])
        if near is not None and len(items) > 1:
            total = _standardized([scores[item] for item in items]) + _standardized(near[items])
            items = [items[place] for place in np.argsort(-total, kind="stable")]
        return Selection(items[:k], missed, reply.ranked_by)

    def _fits(
        self, constraints: list[ItemConstraint], free: np.ndarray, k: int
    ) -> tuple[np.ndarray, list[ItemConstraint]]:
        """(items,) bool of what meets all constraints; where nothing does, of the nearest, and what they miss."""
        if not constraints or not free.any():
            return free, []
        distances = np.stack([self.store.distance(one) for one in constraints])
        allowed = free & (distances[[not one.wanted for one in constraints]] == 0).all(axis=0)
        if allowed.any():
            free = allowed  # what is not wanted gives way only where there is nothing else
        total = np.where(free, distances.sum(axis=0), np.inf)
        if (total == 0).any():
            return total == 0, []
        near = total <= np.sort(total)[min(k, int(free.sum())) - 1]
        return near, [one for one, row in zip(constraints, distances, strict=True) if (row[near] > 0).any()]

    def _nearness(self, state: State) -> np.ndarray | None:
        """(items,) mean cosine to the free words and the seeds; None where there are none."""
        seeds = [self.store.number[one] for one in state.seeds if one in self.store.number]
        if self.index is None or not (state.about or seeds):
            return None
        rows = [*map(self.index.to_item, seeds), *([self.index.to_text(state.about)] if state.about else [])]
        return np.stack(rows).mean(axis=0).astype(np.float64)

    def _ids(self, numbers: np.ndarray) -> list[str]:
        return [self.store.items[number].item_id for number in numbers]

    def _filter(self, fits: np.ndarray, met: list[ItemConstraint], hidden: set[str]) -> dict[str, Any]:
        """Fields of a request that let the items through that fit, or few others, too.

        They are the ids allowed or denied, whichever are fewer; where both are too many, the constraints that all
        fitting items meet.
        """
        field_, listed = min(("allow", fits), ("deny", ~fits), key=lambda one: int(one[1].sum()))
        if listed.sum() <= LISTED:
            return {field_: self._ids(np.flatnonzero(listed))}
        return {"where": where(met), "deny": [one for one in hidden if one in self.store.number][:LISTED]}

    def _recommend(self, state: State, request: dict[str, Any], k: int) -> Recommended | None:
        """The server's reply; None where there is no history and no popularity to rank by."""
        if self.queries and state.about:
            request = request | {"query": state.about[:512]}
        history = [one for one in state.liked if one in self.store.number][-LISTED:]
        try:
            count = min(POOL if "where" in request else k, POOL, len(self.store))
            return self.client.recommend(history, count, **request)
        except Declined as declined:
            if declined.param == "history" and not history:
                return None
            if declined.param != "k":
                raise
            return self.client.recommend(history, min(10, len(self.store)), **request)

    def _fitting(self, reply: Recommended, fits: np.ndarray) -> dict[int, float]:
        """Item number → log-probability, of the recommended items that fit."""
        numbers = ((self.store.number.get(one), score) for one, score in reply.items)
        return {number: score for number, score in numbers if number is not None and fits[number]}


def where(constraints: Iterable[ItemConstraint]) -> dict[str, dict[str, Any]]:
    """Constraints as a request's `where`: column → what its cells must hold.

    What cannot be written so is left out: denied years and prices, and a second value that is wanted of one column.
    """
    found: dict[str, dict[str, Any]] = {}
    for one in constraints:
        column = found.setdefault(one.column, {})
        if one.values and one.wanted:
            column.setdefault("any", list(one.values))
        elif one.values:
            column["none"] = [*column.get("none", []), *one.values]
        elif one.wanted:
            if np.isfinite(one.low):
                column["min"] = max(one.low, column.get("min", one.low))
            if np.isfinite(one.high):
                column["max"] = min(one.high, column.get("max", one.high))
    return {name: column for name, column in found.items() if column}


def _standardized(values: Any) -> np.ndarray:
    """Values in standard deviations from their mean; zeros where they are alike."""
    values = np.asarray(values)
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros(len(values))
