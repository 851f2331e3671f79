"""Ratings in history order, split at random or by time, with what prompts say of their items."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.clean import clean
from llmrec.data.sources import read
from llmrec.errors import DataError
from llmrec.items.text import plain, titles
from llmrec.rate.scale import Scale
from llmrec.recipe import Data
from llmrec.seed import stream
from llmrec.tasks.templates import neutral

Split = Literal["random", "temporal"]
SPLITS: tuple[Split, ...] = ("random", "temporal")
TRAIN, VALID, TEST = 0, 1, 2
_KINDS = ("genres", "category", "categories", "brand")  # what says of which kind an item is: the first it has
_LONGEST = 80  # characters of a title or of its kinds in a prompt


@dataclass(frozen=True)
class Ratings:
    """Every rating of every user, users one after the other, each oldest first.

    Attributes:
        users, items: (events,) int64 numbers.
        given: (events,) float64 ratings.
        parts: (events,) int8: 0 train, 1 valid, 2 test.
        titles, kinds: by item number; kinds are "" where none are known.
        scale: of the ratings.
        split: how parts were made. What is known of a user is, in a random split, the training part; in a temporal one
            all that came before.
        facts: the data's name and licence, counts.
    """

    users: np.ndarray
    items: np.ndarray
    given: np.ndarray
    parts: np.ndarray
    titles: list[str]
    kinds: list[str]
    scale: Scale
    split: Split
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self.titles)

    @property
    def train(self) -> np.ndarray:
        """Event numbers of the training part."""
        return np.flatnonzero(self.parts == TRAIN)

    @property
    def mean(self) -> float:
        """Mean training rating."""
        return float(self.given[self.train].mean())


def load(data: Data, split: Split, seed: int, scale: str | None = None) -> Ratings:
    """Read, clean and split the ratings of a source.

    Args:
        data: the recipe's part; its own split is not used, `holdout_fraction` is.
        split: "random" draws a share of all ratings; "temporal" cuts all histories at one moment.
        seed: of the draw, and of ties in time.
        scale: as `Scale.read` takes it; found in the ratings otherwise.

    Raises:
        DataError: there are no ratings, they are not on the scale, or see `sources.read`, `clean.clean`.
    """
    raw = read(data)
    if "rating" not in raw.columns:
        raise DataError(
            f"{data.source}: its events carry no rating, so there is nothing to predict. "
            "Name their column in your recipe: data.columns.rating=NAME; or take a source that has them, "
            "such as ml-100k or amazon-reviews-2014."
        )
    cleaned = clean(
        raw, data.model_copy(update={"split": "temporal" if split == "temporal" else "leave-one-out"}), seed
    )
    events, items = cleaned.interactions, cleaned.items
    missing = pc.or_kleene(pc.is_null(events["rating"]), pc.fill_null(pc.is_nan(events["rating"]), True))
    events = events.filter(pc.invert(missing))
    if not events.num_rows:
        raise DataError(f"{data.source}: not one event has a rating. Look at the column with: llmrec data show RECIPE")
    given = np.round(events["rating"].to_numpy().astype(np.float64), 4)
    found = Scale.read(scale) if scale else Scale.of(given)
    _refuse_outside(given, found, events)
    numbers = pc.index_in(events["item_id"], value_set=items["item_id"].combine_chunks()).to_numpy().astype(np.int64)
    users = events["user_id"].combine_chunks().dictionary_encode()
    parts = _drawn(len(given), data.holdout_fraction, seed) if split == "random" else _named(events["split"])
    facts = {
        "data": raw.origin.get("source", data.source),
        "users": len(users.dictionary),
        "items": items.num_rows,
        "ratings": len(given),
        "left out": {
            reason: count
            for reason, count in {**cleaned.dropped, "without a rating": int(pc.sum(missing).as_py() or 0)}.items()
            if count
        },
        "scale": found.said,
        "split": split,
        **{name: int((parts == part).sum()) for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))},
    }
    return Ratings(
        users.indices.to_numpy().astype(np.int64), numbers, given, parts, _short(titles(items)), _kinds(items), found,
        split, facts,
    )  # fmt: skip


def _refuse_outside(given: np.ndarray, scale: Scale, events: pa.Table) -> None:
    wrong = np.flatnonzero(scale.outside(given))
    if len(wrong):
        first = {name: events[name][int(wrong[0])].as_py() for name in ("user_id", "item_id")}
        raise DataError(
            f"{len(wrong)} of {len(given)} ratings are not on the scale of {scale.said}; the first is "
            f"{given[wrong[0]]:g}, by user '{first['user_id']}' of item '{first['item_id']}'. "
            "Correct them, or give the scale they are on: --scale LOW:HIGH:STEP"
        )


def _drawn(events: int, share: float, seed: int) -> np.ndarray:
    """(events,) parts: a share of all events is the test, as much again validates."""
    draw = stream(seed, "rate", "split").random(events)
    return np.where(draw < share, TEST, np.where(draw < 2 * share, VALID, TRAIN)).astype(np.int8)


def _named(column: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(column, value_set=pa.array(["train", "valid", "test"])).to_numpy().astype(np.int8)


def _kinds(items: pa.Table) -> list[str]:
    columns = [items[name].to_pylist() for name in _KINDS if name in items.column_names] or [[None] * items.num_rows]
    return _short([next(filter(None, map(plain, said)), "") for said in zip(*columns, strict=True)])


def _short(texts: list[str]) -> list[str]:
    """Texts that cannot be read as a control token, cut at a word where they are long."""
    kept = [neutral(text) for text in texts]
    return [text if len(text) <= _LONGEST else text[:_LONGEST].rsplit(" ", 1)[0].rstrip(" ,;>") for text in kept]
