"""The leak law: what a model may learn from is the same to the byte, whatever the held-out events are."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from llmrec.data.dataset import Dataset
from llmrec.files import hash_folder
from llmrec.recipe_file import load
from llmrec.run.execute import run

FITTED = {  # what is made from data, and what in it may differ: nothing
    "items": lambda out: hash_folder(out / "items"),
    "codes": lambda out: hash_folder(out / "catalogue"),
    "prompts": lambda out: hash_folder(out / "tasks" / "examples"),
}


@pytest.fixture(scope="module")
def twins(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs up to their tasks; in the second world every held-out event is another item at another time."""
    folder = tmp_path_factory.mktemp("leaks")
    shutil.copytree(world.parent, folder / "perturbed")
    honest = run(load(world), folder / "honest", until="tasks")
    held_out = {
        (row["user_id"], row["timestamp"])
        for row in Dataset.load(honest / "data").interactions.to_pylist()
        if row["split"] != "train"
    }
    with (world.parent / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    draw = np.random.default_rng(3)
    for row in rows:
        if (row["user_id"], int(row["timestamp"])) in held_out:
            row["item_id"], row["timestamp"] = f"i{draw.integers(40)}", str(int(row["timestamp"]) + 1_000_000)
    with (folder / "perturbed" / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return honest, run(load(folder / "perturbed" / "recipe.yaml"), folder / "run", until="tasks")


def test_the_held_out_events_do_differ(twins: tuple[Path, Path]) -> None:
    one, other = (Dataset.load(out / "data").part("test").items for out in twins)
    assert (one != other).mean() > 0.9


@pytest.mark.parametrize("made", FITTED)
def test_nothing_fitted_knows_the_held_out_events(twins: tuple[Path, Path], made: str) -> None:
    one, other = (FITTED[made](out) for out in twins)
    assert one == other
