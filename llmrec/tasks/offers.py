"""Items on offer: wrong candidates drawn from the training part alone, and where among them the right one stands."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from llmrec.tasks.cases import Cases, numbered
from llmrec.tasks.source import Source


class Draw:
    """Wrong candidates for a user: items outside their training part.

    Held-out items of the user may be drawn like any other: leaving them out would tell them apart.

    Attributes:
        source: the training part.
        by_popularity: draw items as often as the training part has them (and each once more), not all alike.
        counts: (items,) events of each item in the training part; counted in `source` if None.
    """

    def __init__(self, source: Source, by_popularity: bool, counts: np.ndarray | None = None) -> None:
        self.source, self.by_popularity, self.counts = source, by_popularity, counts

    @cached_property
    def _cumulated(self) -> np.ndarray:
        counts = np.bincount(self.source.train.items, minlength=self.source.n_items)
        weights = (counts if self.counts is None else self.counts) + 1.0
        return np.cumsum(weights) / weights.sum()

    def wrong(self, user: int, count: int, draw: np.random.Generator) -> np.ndarray:
        """Item numbers, distinct, none of the user's training part; fewer than `count` where there are no more."""
        seen = np.unique(self.source.seen(user))
        free = self.source.n_items - len(seen)
        if free <= 4 * count:
            return draw.permutation(np.setdiff1d(np.arange(self.source.n_items), seen))[:count]
        found = np.zeros(0, np.int64)
        while len(found) < count:
            more = np.concatenate([found, self._some(2 * count, draw)])
            kept = more[np.sort(np.unique(more, return_index=True)[1])]
            found = kept[~np.isin(kept, seen)]
        return found[:count]

    def _some(self, count: int, draw: np.random.Generator) -> np.ndarray:
        if self.by_popularity:
            return np.searchsorted(self._cumulated, draw.random(count), side="right").clip(max=self.source.n_items - 1)
        return draw.integers(self.source.n_items, size=count)


def offer(cases: Cases, kind: str, places: int, wrong: Draw, draw: np.random.Generator) -> Cases:
    """Put items on offer in cases of users.

    Args:
        cases: of users and the items they chose.
        kind: none, pick, letters, pair or verdict; "verdict" replaces the item of every other case, by chance, with a
            wrong one.
        places: items shown together, the right one among them.
        wrong: draws the others.
        draw: random numbers.

    Returns:
        The cases with offers and labels.
    """
    if kind == "none" or not len(cases):
        return cases
    if kind == "verdict":
        return _judged(cases, wrong, draw)
    labels = np.zeros(len(cases), np.float32)

    def row(number: int) -> np.ndarray:
        others = wrong.wrong(int(cases.users[number]), places - 1, draw)
        labels[number] = place = int(draw.integers(len(others) + 1))
        return np.insert(others, place, cases.items[number])

    offers = numbered(row(number) for number in range(len(cases)))
    return replace(cases, offers=offers, labels=labels)


def _judged(cases: Cases, wrong: Draw, draw: np.random.Generator) -> Cases:
    items, labels = cases.items.copy(), np.ones(len(cases), np.float32)
    for number in np.flatnonzero(draw.random(len(cases)) < 0.5).tolist():
        found = wrong.wrong(int(cases.users[number]), 1, draw)
        if len(found):  # a user who had everything has no wrong item
            items[number], labels[number] = found[0], 0.0
    return replace(cases, items=items, labels=labels, events=np.where(labels == 0, -1, cases.events))
