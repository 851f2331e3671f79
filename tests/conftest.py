"""What tests share: no hub, no spinning threads, and a small world of interactions with a tiny run trained on it."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# One thread, here and in what tests start: models this tiny only wait for one another on more, and a sum that is split
# over other threads rounds otherwise, so a run in a test and a run in its child would differ in the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import csv
import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("llmrec", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("llmrec")
os.environ.pop("COLUMNS", None)  # in its workers pytest-xdist has 80, and tests could not widen a console any more

RECIPE = """
seed: 7
data: {source: files, interactions: log.csv, items: items.csv}
items: {text: [title, kind], encoder: hashing}
indexing: {levels: 2, width: 8, reserved_tokens: 2}
tasks: {history: 8, passes: 2, templates: 6, item_to_text: 1.0, text_to_item: 1.0}
model: {base: nano, width: 64, layers: 2, heads: 2, vocabulary: 400, dropout: 0.0}
train: [{method: sft, epochs: 8, batch: 8, learning_rate: 3.0e-3, save_every: 20}]
evaluate: {ranking: [hr@1, hr@5, ndcg@5], beams: 10, batch: 16, exclude_seen: false}
"""


def write_world(folder: Path, users: int = 60, items: int = 40, events: int = 14, seed: int = 0) -> Path:
    """A log in which item i is followed by item i + 1 (mod items) nine times in ten; returns the recipe's path."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "kind"])
        kinds = ("drama", "comedy", "western", "documentary")
        writer.writerows(
            [f"i{i}", f"Film number {i} {'abcdefgh'[i % 8] * 3}", kinds[i * len(kinds) // items]] for i in range(items)
        )
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in range(users):
            item = int(draw.integers(items))
            for time in range(events):
                writer.writerow([f"u{user}", f"i{item}", 1_000_000 + time * 60])
                item = (item + 1) % items if draw.random() < 0.9 else int(draw.integers(items))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip slow tests unless `make test-all` asks for them."""
    for item in items if "LLMREC_ALL_TESTS" not in os.environ else []:
        if slow := item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=f"slow, run by `make test-all`: {slow.args[0]}"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a small world."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def tiny_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small world, trained to its end. Tests must not change it."""
    from llmrec.recipe_file import load
    from llmrec.run.execute import run

    return run(load(world), tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def mixed_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_run` with a collaborative model mixed in that is composed of two others. Tests must not change it."""
    from llmrec.run.execute import run
    from llmrec.run.layout import recipe_of

    folder = tmp_path_factory.mktemp("runs") / "mixed"
    shutil.copytree(tiny_run, folder)
    return run(recipe_of(folder, ["evaluate.ensemble={weight: 0.4, model: markov-ease}"]), folder, until="evaluate")
