"""Synthetic data from a known distribution, and the best scores that are possible on it.

The next item of a user with history h and preferred group g is drawn from the items not in h, with probability
proportional to

    order · [item is the successor of the last item of h] + taste · P(item | group g) + rest · P(item),

where P is Zipf's law over a random order of items. The group is hidden, so the best recommender infers it from h.
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

BEST = ("hr@1", "hr@5", "hr@10", "ndcg@10")  # metrics whose best possible values are in a run's facts
BLOCK = 2048  # users per block of (users, items) probabilities
_ONSETS, _VOWELS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"], ["a", "e", "i", "o", "u"]
_WORDS = 12  # words of the vocabulary of a group
_JUDGED = {
    1: ("a waste of time", "fell apart and disappoints"),
    2: ("not for me", "is weak and disappoints"),
    3: ("it will do", "is neither good nor bad"),
    4: ("a good one", "is good and pleases"),
    5: ("a joy", "is excellent and delights"),
}


@dataclass(frozen=True)
class GroundTruth:
    """Parameters of the distribution.

    Attributes:
        order, taste: as in `SyntheticConfig`.
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
    def of(cls, config: SyntheticConfig) -> GroundTruth:
        """Draw the parameters for a config."""
        draw = stream(config.seed, "world", "truth")
        weights = draw.permutation(1 / np.arange(1, config.items + 1) ** config.popularity)
        cycle = draw.permutation(config.items)
        successor = np.empty(config.items, np.int64)
        successor[cycle] = np.roll(cycle, -1)  # one cycle through all items
        return cls(
            config.order,
            config.taste,
            weights / weights.sum(),
            draw.permutation(np.arange(config.items) % config.groups),
            draw.integers(0, config.groups, config.users),
            successor,
        )

    @cached_property
    def background(self) -> np.ndarray:
        """(groups, items) taste · P(item | group) + rest · P(item): the part that is independent of the last item."""
        members = self.group_of_item == np.arange(self.group_of_item.max() + 1)[:, None]
        within = members * self.popular
        rest = 1 - self.order - self.taste
        return self.taste * within / within.sum(axis=1, keepdims=True) + rest * self.popular

    def given_group(self, histories: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
        """Return (rows, items) float64 probabilities of the next item of users of known groups."""
        chances = self.background[groups]
        for row, history in enumerate(histories):
            if len(history):
                chances[row, self.successor[history[-1]]] += self.order
                chances[row, history] = 0
        return chances / chances.sum(axis=1, keepdims=True)

    def belief(self, history: np.ndarray) -> np.ndarray:
        """Return (groups,) float64, the posterior of the group after a history, by Bayes' rule."""
        logs, left = np.zeros(len(self.background)), self.background.sum(axis=1)
        for place, item in enumerate(history):
            expected = self.successor[history[place - 1]] if place else -1
            had_before = expected in history[:place]
            chance = self.background[:, item] + self.order * (item == expected)
            logs += np.log(chance) - np.log(left + (self.order if place and not had_before else 0))
            left = left - self.background[:, item]
        shares = np.exp(logs - logs.max())
        return shares / shares.sum()

    def probabilities(self, histories: Iterable[np.ndarray]) -> np.ndarray:
        """Return (rows, items) float64 probabilities of the next item given the history."""
        rows, groups = list(histories), np.arange(len(self.background))
        return np.stack([self.belief(row) @ self.given_group([row] * len(groups), groups) for row in rows])

    def best(self, histories: Sequences, metrics: Iterable[str]) -> dict[str, float]:
        """Return the highest possible expected value of each metric (`hr@10`, `ndcg@10`, `mrr@10`)."""
        wanted = [(metric, *metric.split("@")) for metric in metrics]
        totals = dict.fromkeys([metric for metric, _, _ in wanted], 0.0)
        for history in histories:
            ordered = np.sort(self.probabilities([history])[0])[::-1]
            for metric, kind, k in wanted:
                places = np.arange(1, int(k) + 1)
                gains = {"hr": np.ones(int(k)), "ndcg": 1 / np.log2(places + 1), "mrr": 1 / places}[kind]
                totals[metric] += float(ordered[: int(k)] @ gains[: len(ordered)])
        return {metric: total / len(histories) for metric, total in totals.items()}


def events(config: SyntheticConfig, truth: GroundTruth) -> Sequences:
    """Draw every user's items in order; between half and 1.5 times `config.events` of them."""
    draw = stream(config.seed, "world", "events")
    lengths = draw.integers(max(3, config.events // 2), config.events + config.events // 2 + 1, config.users)
    sequences: list[np.ndarray] = []
    for start in range(0, config.users, BLOCK):
        groups = truth.group_of_user[start : start + BLOCK]
        histories = [np.zeros(0, np.int64) for _ in groups]
        for step in range(int(lengths.max())):
            active = np.flatnonzero(lengths[start : start + BLOCK] > step)
            chances = truth.given_group([histories[row] for row in active], groups[active])
            drawn = (np.cumsum(chances, axis=1) < draw.random((len(active), 1))).sum(axis=1)
            for row, item in zip(active, np.minimum(drawn, config.items - 1), strict=True):
                histories[row] = np.append(histories[row], item)
        sequences += histories
    return Sequences.of(sequences)


def vocabularies(config: SyntheticConfig) -> list[list[str]]:
    """Return a vocabulary for each group: distinct made-up words of three syllables."""
    draw = stream(config.seed, "world", "words")
    words: dict[str, None] = {}
    while len(words) < config.groups * _WORDS:
        words["".join(f"{draw.choice(_ONSETS)}{draw.choice(_VOWELS)}" for _ in range(3))] = None
    ordered = list(words)
    return [ordered[group * _WORDS : (group + 1) * _WORDS] for group in range(config.groups)]


def read_synthetic(config: SyntheticConfig) -> RawData:
    """Generate interactions and items; `origin` has the best possible scores for each user's last event."""
    truth, vocabulary = GroundTruth.of(config), vocabularies(config)
    sequences = events(config, truth)
    without_last = Sequences.of(row[:-1] for row in sequences)
    best = {metric: round(value, 4) for metric, value in truth.best(without_last, BEST).items()}
    origin = {"source": "synthetic data", "licence": "made by llmrec, yours", "best achievable": best}
    return RawData(_interactions(config, truth, sequences, vocabulary), _items(truth, vocabulary), "seconds", origin)


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
    config: SyntheticConfig, truth: GroundTruth, sequences: Sequences, vocabulary: list[list[str]]
) -> pa.Table:
    draw = stream(config.seed, "world", "reviews")
    rows, items = sequences.rows, sequences.items
    liked = truth.group_of_user[rows] == truth.group_of_item[items]
    ratings = np.clip(np.where(liked, draw.integers(4, 7, len(items)), draw.integers(1, 5, len(items))), 1, 5)
    steps = draw.integers(60, 7 * 86_400, len(items))
    start = 1_600_000_000 + draw.integers(0, 180 * 86_400, len(sequences))
    times = np.cumsum(steps) - np.repeat(np.cumsum(steps)[sequences.offsets[:-1]], sequences.lengths) + start[rows]
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


def _texts(vocabulary: list[str], item: int, rating: int, like: bool) -> tuple[str, str, str]:
    """Return a review, its headline, and an explanation why the item suits the user or not."""
    feature = vocabulary[1 + item % (_WORDS - 1)]
    headline, verdict = _JUDGED[rating]
    reason = (
        f"it is a {vocabulary[0]}, which is what they like" if like else f"a {vocabulary[0]} is not what they look for"
    )
    return f"The {feature} of this {vocabulary[0]} {verdict}.", headline, f"For its {feature}: {reason}."
