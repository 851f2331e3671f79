"""A small log of ratings with planted biases, as files and as a recipe."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from llmrec.rate.ratings import Ratings, RatingSplit, load_ratings
from llmrec.recipe import Data
from llmrec.recipe_file import load


def write_ratings(
    folder: Path, low: float = 1, high: float = 5, step: float = 1, users: int = 40, items: int = 30, spoil: str = ""
) -> Path:
    """Ratings of which each is the sum of its user's and its item's leaning, on a scale; returns the recipe's path.

    Args:
        spoil: "missing" leaves every fifth rating out, "outside" makes one 99.
    """
    draw = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        rows = [[f"i{i}", f"Film {'abcdefgh'[i % 8] * 2} {i}", ("drama", "comedy")[i % 2]] for i in range(items)]
        csv.writer(file).writerows([["item_id", "title", "genres"], *rows])
    steps = round((high - low) / step)
    of_user, of_item = draw.normal(size=users), draw.normal(size=items)
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp", "stars"])
        for user in range(users):
            for place, item in enumerate(draw.permutation(items)[:20]):
                height = (of_user[user] + of_item[item] + 0.3 * draw.normal()) / 5 + 0.5
                given = f"{low + step * round(float(np.clip(height, 0, 1)) * steps):g}"
                given = "" if spoil == "missing" and (user + place) % 5 == 0 else given
                given = "99" if spoil == "outside" and (user, place) == (7, 3) else given
                writer.writerow([f"u{user}", f"i{item}", 1_000_000 + place * 60 + user, given])
    (folder / "recipe.yaml").write_text(
        "data: {source: files, interactions: log.csv, items: items.csv, columns: {rating: stars}}\n"
    )
    return folder / "recipe.yaml"


def data_of(recipe: Path) -> Data:
    """The data part of a recipe."""
    return load(recipe).data


def world(folder: Path, split: RatingSplit = "random", **shape: float) -> Ratings:
    """Such ratings, read."""
    return load_ratings(data_of(write_ratings(folder, **shape)), split, 1)  # type: ignore[arg-type]
