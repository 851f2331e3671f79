"""Generated data with known truth: users, items, texts and events drawn from stated chances, and the best score.

The next item of a user who had h and likes group g is drawn among the items not in h with chances in proportion to

    order · [item is the planted successor of the last of h] + taste · P(item | group g) + rest · P(item),

P being Zipf's law over a random order of items. The group is hidden, so the best recommender infers it from h.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.data.raw import RawData
from llmrec.recipe import SyntheticConfig
from llmrec.seed import stream

BEST = ("hr@1", "hr@5", "hr@10", "ndcg@10")  # best achievable figures in a run's facts, for leave-one-out
BLOCK = 2048  # users whose chances are held at once, each a row over all items
_ONSETS, _VOWELS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"], ["a", "e", "i", "o", "u"]
_WORDS = 12  # words that only one group uses
_JUDGED = {
    1: ("a waste of time", "fell apart and disappoints"),
    2: ("not for me", "is weak and disappoints"),
    3: ("it will do", "is neither good nor bad"),
    4: ("a good one", "is good and pleases"),
    5: ("a joy", "is excellent and delights"),
}


@dataclass(frozen=True)
class GroundTruth:
    """Parameters of a world.

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
    def of(cls, world: SyntheticConfig) -> GroundTruth:
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
        """(groups, items) taste · P(item | group) + rest · P(item), which do not depend on the last item."""
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
        """The highest expected mean of each metric (`hr@10`, `ndcg@10`, `mrr@10`) over the next items."""
        wanted = [(metric, *metric.split("@")) for metric in metrics]
        totals = dict.fromkeys([metric for metric, _, _ in wanted], 0.0)
        for history in histories:
            ordered = np.sort(self.chances([history])[0])[::-1]
            for metric, kind, k in wanted:
                places = np.arange(1, int(k) + 1)
                gains = {"hr": np.ones(int(k)), "ndcg": 1 / np.log2(places + 1), "mrr": 1 / places}[kind]
                totals[metric] += float(ordered[: int(k)] @ gains[: len(ordered)])
        return {metric: total / len(histories) for metric, total in totals.items()}


def events(world: SyntheticConfig, truth: GroundTruth) -> Sequences:
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


def words(world: SyntheticConfig) -> list[list[str]]:
    """Of each group, words that no other group has: three syllables of a made-up language."""
    draw = stream(world.seed, "world", "words")
    found: dict[str, None] = {}
    while len(found) < world.groups * _WORDS:
        found["".join(f"{draw.choice(_ONSETS)}{draw.choice(_VOWELS)}" for _ in range(3))] = None
    every = list(found)
    return [every[group * _WORDS : (group + 1) * _WORDS] for group in range(world.groups)]


def read_synthetic(world: SyntheticConfig) -> RawData:
    """A world as a source; its origin has the best score there can be for each user's last event."""
    truth, vocabulary = GroundTruth.of(world), words(world)
    happened = events(world, truth)
    last_left_out = Sequences.of(row[:-1] for row in happened)
    best = {metric: round(value, 4) for metric, value in truth.best(last_left_out, BEST).items()}
    origin = {"source": "synthetic data", "licence": "made by llmrec, yours", "best achievable": best}
    return RawData(_interactions(world, truth, happened, vocabulary), _items(truth, vocabulary), "seconds", origin)


def _items(truth: GroundTruth, vocabulary: list[list[str]]) -> pa.Table:
    rows = []
    for item, group in enumerate(truth.group_of_item.tolist()):
        own = vocabulary[group]
        first, second = own[1 + item % (_WORDS - 1)], own[1 + item // (_WORDS - 1) % (_WORDS - 1)]
        about = f"A {first} {own[0]} with {second} and {own[1 + (item * 7 + 3) % (_WORDS - 1)]}"
        row = {"item_id": f"i{item}", "title": f"{first} {second} {item}", "category": own[0], "description": about}
        rows.append(row | {"price": round(5 + 95 * float(stream(item, "price").random()), 2)})
    return pa.Table.from_pylist(rows)


def _interactions(
    world: SyntheticConfig, truth: GroundTruth, happened: Sequences, vocabulary: list[list[str]]
) -> pa.Table:
    draw = stream(world.seed, "world", "reviews")
    rows, items = happened.rows, happened.items
    liked = truth.group_of_user[rows] == truth.group_of_item[items]
    ratings = np.clip(np.where(liked, draw.integers(4, 7, len(items)), draw.integers(1, 5, len(items))), 1, 5)
    steps = draw.integers(60, 7 * 86_400, len(items))
    start = 1_600_000_000 + draw.integers(0, 180 * 86_400, len(happened))
    times = np.cumsum(steps) - np.repeat(np.cumsum(steps)[happened.offsets[:-1]], happened.lengths) + start[rows]
    texts = [
        _texts(vocabulary[truth.group_of_item[item]], item, rating, like)
        for item, rating, like in zip(items.tolist(), ratings.tolist(), liked.tolist(), strict=True)
    ]
    return pa.table(
        {
            "user_id": [f"u{row}" for row in rows],
            "item_id": [f"i{item}" for item in items],
            "timestamp": pa.array(times, pa.int64()),
            "rating": pa.array(ratings, pa.float32()),
            **dict(zip(("review", "summary", "explanation"), zip(*texts, strict=True), strict=True)),
        }
    )


def _texts(own: list[str], item: int, rating: int, like: bool) -> tuple[str, str, str]:
    """What the user writes of an item, its headline, and why it was or was not for this user."""
    feature = own[1 + item % (_WORDS - 1)]
    headline, verdict = _JUDGED[rating]
    reason = f"it is a {own[0]}, which is what they like" if like else f"a {own[0]} is not what they look for"
    return f"The {feature} of this {own[0]} {verdict}.", headline, f"For its {feature}: {reason}."
