"""Ratings of a data set: their scale, the split into train, valid and test, and the texts of the rated items."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.clean import clean
from llmrec.data.sources import read
from llmrec.errors import DataError
from llmrec.items.item_text import item_titles, plain_text
from llmrec.recipe import Data
from llmrec.seed import stream
from llmrec.tasks.templates import sanitize

RatingSplit = Literal["random", "temporal"]
SPLITS: tuple[RatingSplit, ...] = ("random", "temporal")
TRAIN, VALID, TEST = 0, 1, 2
MAX_STEPS = 101  # of a scale: 0 to 100; more are measurements, not ratings
MAX_GAP = 0.6  # share of the range between two neighbouring ratings, above which one looks wrong: 99 among 1 to 5
_GENRES = ("genres", "category", "categories", "brand")  # columns that describe an item; the first with a value counts
_MAX_CHARACTERS = 80  # of a title or of genres in a prompt


@dataclass(frozen=True)
class RatingScale:
    """Evenly spaced ratings from `low` to `high`."""

    low: float
    high: float
    step: float

    @classmethod
    def parse(cls, text: str) -> RatingScale:
        """Parse `1:5`, or `0.5:5:0.5` with a step.

        Raises:
            DataError: the text has another form, or the scale has fewer than two steps, too many, or a part of one.
        """
        try:
            low, high, step = (float(part) for part in [*text.split(":"), "1"][:3])
            valid = text.count(":") in (1, 2) and all(map(math.isfinite, (low, high, step)))
        except ValueError:
            valid = False
        if not valid:
            raise DataError(f"--scale is LOW:HIGH or LOW:HIGH:STEP, such as 1:5 or 0.5:5:0.5, not '{text}'.")
        steps = (high - low) / step if step > 0 else 0
        if steps < 1 or steps > MAX_STEPS - 1 or abs(steps - round(steps)) > 1e-6:
            raise DataError(
                f"--scale {text} has no whole number of steps from 1 to {MAX_STEPS - 1} between its ends. "
                "Give LOW:HIGH:STEP, such as 0.5:5:0.5."
            )
        return cls(low, high, step)

    @classmethod
    def infer(cls, ratings: np.ndarray) -> RatingScale:
        """Infer the scale: from the lowest to the highest rating, by the widest step that meets all of them.

        Args:
            ratings: (ratings,) finite.

        Raises:
            DataError: all are equal, they are not evenly spaced, or some lie far from the others.
        """
        distinct = np.unique(np.round(ratings, 4))
        low, high = distinct[[0, -1]]
        if len(distinct) < 2:
            raise DataError(f"every rating is {low:g}: there is nothing to predict. Name the scale: --scale 1:5")
        gaps = np.round(np.diff(distinct) * 1e4).astype(np.int64)
        step = float(np.gcd.reduce(gaps)) / 1e4
        if (high - low) / step > MAX_STEPS - 1:
            raise DataError(
                f"ratings take {len(distinct)} values from {low:g} to {high:g}, which are no steps of a scale "
                f"(at most {MAX_STEPS} of them). Round them to steps, such as whole numbers from 1 to 100, first."
            )
        widest = int(np.argmax(gaps))
        if len(distinct) > 2 and gaps[widest] / gaps.sum() > MAX_GAP:
            raise DataError(
                f"ratings go up to {distinct[widest]:g} and then from {distinct[widest + 1]:g} to {high:g}, with "
                "nothing between. Correct those that are wrong, or say that this is the scale: --scale LOW:HIGH:STEP"
            )
        return cls(float(low), float(high), step)

    @cached_property
    def values(self) -> np.ndarray:
        """(steps,) every rating of the scale, lowest first."""
        return np.round(self.low + self.step * np.arange(round((self.high - self.low) / self.step) + 1), 4)

    @cached_property
    def labels(self) -> list[str]:
        """Every rating as text: 3, 3.5."""
        return [f"{value:g}" for value in self.values]

    @property
    def description(self) -> str:
        """The scale in words, as prompts have it."""
        steps = "" if self.step == 1 else f", in steps of {self.step:g}"
        return f"{self.low:g} (worst) to {self.high:g} (best){steps}"

    @property
    def liked_from(self) -> float:
        """The lowest rating that counts as "liked": the first step in the upper quarter of the scale, 4 of 1 to 5."""
        return float(self.values[self.values >= self.low + 0.75 * (self.high - self.low) - 1e-6][0])

    def steps(self, ratings: np.ndarray) -> np.ndarray:
        """(ratings,) int64 index of the nearest step of each rating, from 0."""
        return np.clip(np.round((ratings - self.low) / self.step), 0, len(self.values) - 1).astype(np.int64)

    def format(self, rating: float) -> str:
        """The text of the step nearest to a rating."""
        return self.labels[int(self.steps(np.array([rating]))[0])]


@dataclass(frozen=True)
class Ratings:
    """All ratings, one event each: user after user, the oldest event of each first.

    Attributes:
        users, items: (events,) int64 numbers.
        values: (events,) float64 ratings.
        parts: (events,) int8: 0 train, 1 valid, 2 test.
        titles, genres: by item number; genres are "" where none are known.
        scale: of the ratings.
        split: "random": the training ratings of a user are known; "temporal": all earlier ones are.
        facts: name of the data and counts.
    """

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    parts: np.ndarray
    titles: list[str]
    genres: list[str]
    scale: RatingScale
    split: RatingSplit
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.titles)

    @property
    def train(self) -> np.ndarray:
        """Event numbers of the training part."""
        return np.flatnonzero(self.parts == TRAIN)

    @property
    def mean(self) -> float:
        """Mean training rating."""
        return float(self.values[self.train].mean())

    def item_text(self, item: int) -> str:
        """An item as prompts describe it: its title, and its genres in brackets."""
        return f"{self.titles[item]} ({self.genres[item]})" if self.genres[item] else self.titles[item]


def load_ratings(data: Data, split: RatingSplit, seed: int, scale: str | None = None) -> Ratings:
    """Read, clean and split the ratings of a source.

    Args:
        data: the recipe's part; its `split` is not used, `holdout_fraction` is.
        split: "random" holds out a share of all ratings; "temporal" cuts all histories at one time.
        seed: of the random split, and of the order of events with equal times.
        scale: as `RatingScale.parse` takes it; inferred from the ratings where it is None.

    Raises:
        DataError: there are no ratings, or one is not on the scale; or see `sources.read`, `clean.clean`.
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
    values = np.round(events["rating"].to_numpy().astype(np.float64), 4)
    rating_scale = RatingScale.parse(scale) if scale else RatingScale.infer(values)
    _check_on_scale(values, rating_scale, events)
    users = events["user_id"].combine_chunks().dictionary_encode()
    item_numbers = pc.index_in(events["item_id"], value_set=items["item_id"].combine_chunks()).to_numpy()
    if split == "random":
        draw, share = stream(seed, "rate", "split").random(len(values)), data.holdout_fraction
        parts = np.where(draw < share, TEST, np.where(draw < 2 * share, VALID, TRAIN))
    else:
        parts = pc.index_in(events["split"], value_set=pa.array(["train", "valid", "test"])).to_numpy()
    left_out = {**cleaned.dropped, "without a rating": int(pc.sum(missing).as_py() or 0)}
    facts = {
        "data": raw.origin.get("source", data.source),
        "users": len(users.dictionary),
        "items": items.num_rows,
        "ratings": len(values),
        "left out": {reason: count for reason, count in left_out.items() if count},
        "scale": rating_scale.description,
        "split": split,
        **{name: int((parts == part).sum()) for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))},
    }
    return Ratings(
        users.indices.to_numpy().astype(np.int64), item_numbers.astype(np.int64), values, parts.astype(np.int8),
        _short(item_titles(items)), _genres(items), rating_scale, split, facts,
    )  # fmt: skip


def _check_on_scale(values: np.ndarray, scale: RatingScale, events: pa.Table) -> None:
    wrong = np.flatnonzero(np.abs(values - scale.values[scale.steps(values)]) >= 1e-3)
    if len(wrong):
        user, item = (events[name][int(wrong[0])].as_py() for name in ("user_id", "item_id"))
        raise DataError(
            f"{len(wrong)} of {len(values)} ratings are not on the scale of {scale.description}; the first is "
            f"{values[wrong[0]]:g}, by user '{user}' of item '{item}'. "
            "Correct them, or give the scale they are on: --scale LOW:HIGH:STEP"
        )


def _genres(items: pa.Table) -> list[str]:
    columns = [items[name].to_pylist() for name in _GENRES if name in items.column_names] or [[None] * items.num_rows]
    return _short([next(filter(None, map(plain_text, values)), "") for values in zip(*columns, strict=True)])


def _short(texts: list[str]) -> list[str]:
    """Texts without control tokens, cut at a word where they are long."""
    safe = [sanitize(text) for text in texts]
    return [
        text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS].rsplit(" ", 1)[0].rstrip(" ,;>")
        for text in safe
    ]
