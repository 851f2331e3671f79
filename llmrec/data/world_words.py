"""The words of a world: titles from the vocabulary of a group, ratings by taste, reviews and reasons that say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.data.raw import Raw
from llmrec.data.worlds import Truth, events
from llmrec.recipe import World
from llmrec.seed import stream

BEST = ("hr@1", "hr@5", "hr@10", "ndcg@10")
"""Best achievable figures that a run's facts tell, for leave-one-out."""

_ONSETS, _VOWELS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"], ["a", "e", "i", "o", "u"]
_WORDS = 12  # words that only one group uses
_JUDGED = {
    1: ("a waste of time", "fell apart and disappoints"),
    2: ("not for me", "is weak and disappoints"),
    3: ("it will do", "is neither good nor bad"),
    4: ("a good one", "is good and pleases"),
    5: ("a joy", "is excellent and delights"),
}


def read_world(world: World) -> Raw:
    """A world as a source; its origin tells the best score there can be for each user's last event.

    The truth itself comes back from `Truth.of(world)`.
    """
    truth = Truth.of(world)
    happened = events(world, truth)
    vocabulary = words(world)
    last_left_out = Sequences.of(row[:-1] for row in happened)
    best = {metric: round(value, 4) for metric, value in truth.best(last_left_out, BEST).items()}
    origin: dict[str, Any] = {"source": "generated world", "licence": "made by llmrec, yours", "best achievable": best}
    return Raw(_interactions(world, truth, happened, vocabulary), _items(truth, vocabulary), "seconds", origin)


def words(world: World) -> list[list[str]]:
    """Of each group, words that no other group has: three syllables of a made-up language."""
    draw = stream(world.seed, "world", "words")
    found: dict[str, None] = {}
    while len(found) < world.groups * _WORDS:
        found["".join(f"{draw.choice(_ONSETS)}{draw.choice(_VOWELS)}" for _ in range(3))] = None
    every = list(found)
    return [every[group * _WORDS : (group + 1) * _WORDS] for group in range(world.groups)]


def _items(truth: Truth, vocabulary: list[list[str]]) -> pa.Table:
    rows = []
    for item, group in enumerate(truth.group_of_item.tolist()):
        own = vocabulary[group]
        first, second = own[1 + item % (_WORDS - 1)], own[1 + item // (_WORDS - 1) % (_WORDS - 1)]
        about = f"A {first} {own[0]} with {second} and {own[1 + (item * 7 + 3) % (_WORDS - 1)]}"
        row = {"item_id": f"i{item}", "title": f"{first} {second} {item}", "category": own[0], "description": about}
        rows.append(row | {"price": round(5 + 95 * float(stream(item, "price").random()), 2)})
    return pa.Table.from_pylist(rows)


def _interactions(world: World, truth: Truth, happened: Sequences, vocabulary: list[list[str]]) -> pa.Table:
    draw = stream(world.seed, "world", "reviews")
    rows, items = happened.rows, happened.items
    liked = truth.group_of_user[rows] == truth.group_of_item[items]
    ratings = np.clip(np.where(liked, draw.integers(4, 7, len(items)), draw.integers(1, 5, len(items))), 1, 5)
    steps = draw.integers(60, 7 * 86_400, len(items))
    start = 1_600_000_000 + draw.integers(0, 180 * 86_400, len(happened))
    times = np.cumsum(steps) - np.repeat(np.cumsum(steps)[happened.offsets[:-1]], happened.lengths) + start[rows]
    told = [_told(vocabulary[truth.group_of_item[item]], item, rating, like)
            for item, rating, like in zip(items.tolist(), ratings.tolist(), liked.tolist(), strict=True)]  # fmt: skip
    review, summary, explanation = zip(*told, strict=True)
    return pa.table(
        {
            "user_id": [f"u{row}" for row in rows],
            "item_id": [f"i{item}" for item in items],
            "timestamp": pa.array(times, pa.int64()),
            "rating": pa.array(ratings, pa.float32()),
            "review": review,
            "summary": summary,
            "explanation": explanation,
        }
    )


def _told(own: list[str], item: int, rating: int, like: bool) -> tuple[str, str, str]:
    """What the user writes of an item, its headline, and why it was or was not for this user."""
    feature = own[1 + item % (_WORDS - 1)]
    headline, verdict = _JUDGED[rating]
    reason = f"it is a {own[0]}, which is what they like" if like else f"a {own[0]} is not what they look for"
    return f"The {feature} of this {own[0]} {verdict}.", headline, f"For its {feature}: {reason}."
