"""Worlds with known truth: users, items, words and events drawn from stated chances, and the best score there can be.

The next item of a user who had h and likes group g is drawn among the items not in h with chances in proportion to

    order · [item is the planted successor of the last of h] + taste · P(item | group g) + rest · P(item),

P being Zipf's law over a random order of items. The group is hidden, so the best recommender infers it from h.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmrec.contracts import Sequences
from llmrec.recipe import World
from llmrec.seed import stream

BLOCK = 2048
"""Users whose chances are held at once, each a row over all items."""


@dataclass(frozen=True)
class Truth:
    """What a world is made of.

    Attributes:
        order, taste: shares of the recipe; the rest is popularity.
        popular: (items,) float64, P(item).
        group_of_item: (items,) int64.
        group_of_user: (users,) int64.
        successor: (items,) int64, a permutation without fixed points.
    """

    order: float
    taste: float
    popular: np.ndarray
    group_of_item: np.ndarray
    group_of_user: np.ndarray
    successor: np.ndarray

    @classmethod
    def of(cls, world: World) -> Truth:
        """Draw the truth of a world."""
        draw = stream(world.seed, "world", "truth")
        weights = draw.permutation(1 / np.arange(1, world.items + 1) ** world.popularity)
        around = draw.permutation(world.items)
        successor = np.empty(world.items, np.int64)
        successor[around] = np.roll(around, -1)  # one circle through all items
        return cls(
            world.order,
            world.taste,
            weights / weights.sum(),
            draw.permutation(np.arange(world.items) % world.groups),
            draw.integers(0, world.groups, world.users),
            successor,
        )

    @cached_property
    def background(self) -> np.ndarray:
        """(groups, items) what the last item has no part in: taste · P(item | group) + rest · P(item)."""
        members = self.group_of_item == np.arange(self.group_of_item.max() + 1)[:, None]
        within = members * self.popular
        rest = 1 - self.order - self.taste
        return self.taste * within / within.sum(axis=1, keepdims=True) + rest * self.popular

    def given_group(self, histories: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
        """(rows, items) float64 chances of the next item of users whose group is known; rows sum to 1."""
        chances = self.background[groups]
        for row, history in enumerate(histories):
            if len(history):
                chances[row, self.successor[history[-1]]] += self.order
                chances[row, history] = 0
        return chances / chances.sum(axis=1, keepdims=True)

    def belief(self, history: np.ndarray) -> np.ndarray:
        """(groups,) float64, the chance of each group after a history: Bayes' rule over its events, in their order."""
        logs, left = np.zeros(len(self.background)), self.background.sum(axis=1)
        for place, item in enumerate(history):
            planted = self.successor[history[place - 1]] if place else -1
            met = planted in history[:place]
            chance = self.background[:, item] + self.order * (item == planted)
            logs += np.log(chance) - np.log(left + (self.order if place and not met else 0))
            left = left - self.background[:, item]
        shares = np.exp(logs - logs.max())
        return shares / shares.sum()

    def chances(self, histories: Iterable[np.ndarray]) -> np.ndarray:
        """(rows, items) float64: the true chance of each next item, as far as the history alone can tell."""
        rows, groups = list(histories), np.arange(len(self.background))
        return np.stack([self.belief(row) @ self.given_group([row] * len(groups), groups) for row in rows])

    def best(self, histories: Sequences, metrics: Iterable[str]) -> dict[str, float]:
        """The mean of each metric (`hr@10`, `ndcg@10`, `mrr@10`) that no recommender can exceed but by luck."""
        wanted = [(metric, *metric.split("@")) for metric in metrics]
        totals = dict.fromkeys([metric for metric, _, _ in wanted], 0.0)
        for history in histories:
            ordered = np.sort(self.chances([history])[0])[::-1]
            for metric, kind, k in wanted:
                places = np.arange(1, int(k) + 1)
                worth = {"hr": np.ones(int(k)), "ndcg": 1 / np.log2(places + 1), "mrr": 1 / places}[kind]
                totals[metric] += float(ordered[: int(k)] @ worth[: len(ordered)])
        return {metric: total / len(histories) for metric, total in totals.items()}


def events(world: World, truth: Truth) -> Sequences:
    """Every user's items in the order they come: between half and one and a half times `world.events` of them."""
    draw = stream(world.seed, "world", "events")
    lengths = draw.integers(max(3, world.events // 2), world.events + world.events // 2 + 1, world.users)
    found: list[np.ndarray] = []
    for start in range(0, world.users, BLOCK):
        groups = truth.group_of_user[start : start + BLOCK]
        histories = [np.zeros(0, np.int64) for _ in groups]
        for step in range(int(lengths.max())):
            going = np.flatnonzero(lengths[start : start + BLOCK] > step)
            chances = truth.given_group([histories[row] for row in going], groups[going])
            drawn = (np.cumsum(chances, axis=1) < draw.random((len(going), 1))).sum(axis=1)
            for row, item in zip(going, np.minimum(drawn, world.items - 1), strict=True):
                histories[row] = np.append(histories[row], item)
        found += histories
    return Sequences.of(found)
