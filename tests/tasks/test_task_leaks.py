"""Leaks: nothing held out reaches a prompt, and codes that number items through the test part are found out.

P5 numbered items in the order in which users' whole histories meet them. Those who took neighbouring numbers one after
another in training take the next number in the test, so the number itself gives the held-out item away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from leaks import assert_no_future, perturbed

from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import TASKS, Oracle, Tasks
from llmrec.recipe_file import load as load_recipe
from llmrec.run.execute import run
from llmrec.tasks.examples import load, make
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.llm_annotations import add_annotations

WORLD = """
seed: 3
data: {source: synthetic, synthetic: {users: 60, items: 60, groups: 4}}
items: {text: [title, description], encoder: hashing}
indexing: {levels: 2, width: 8, reserved_tokens: 2}
"""
NOISE = """
data: {source: files, interactions: log.csv, items: items.csv}
items: {encoder: hashing}
indexing: {levels: 2, width: 16, reserved_tokens: 2}
"""
EVERY = Tasks(**dict.fromkeys(TASKS, 1.0), negatives="popularity", candidates=10, options=5, oracle=Oracle())


@pytest.fixture(scope="module")
def worldly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a generated world with reviews, up to its tasks."""
    folder = tmp_path_factory.mktemp("worldly")
    (folder / "recipe.yaml").write_text(WORLD)
    return run(load_recipe(folder / "recipe.yaml"), folder / "run", until="tasks")


def rows(dataset: Dataset, catalogue: Catalogue) -> pa.Table:
    """Examples of every task."""
    texts = [f"{row['title']}; {row['description']}" for row in dataset.items.to_pylist()]
    with tempfile.TemporaryDirectory() as folder:
        source = add_annotations(TaskInputs.load(dataset, catalogue, texts), catalogue.items, EVERY)
        make(EVERY, source, 0, Path(folder))
        return pa.Table.from_pylist(load(Path(folder)).to_pylist())


def test_every_task_has_examples_in_the_world(worldly: Path) -> None:
    dataset, catalogue = Dataset.load(worldly / "data"), Catalogue.load(worldly / "catalogue")
    assert set(rows(dataset, catalogue)["task"].to_pylist()) == set(TASKS)


def test_no_example_of_any_task_knows_a_held_out_event(worldly: Path) -> None:
    catalogue = Catalogue.load(worldly / "catalogue")
    assert_no_future(lambda dataset: rows(dataset, catalogue), Dataset.load(worldly / "data"))


def test_that_test_would_notice(worldly: Path) -> None:
    """The same examples, from histories that were not cut."""
    catalogue = Catalogue.load(worldly / "catalogue")

    def careless(dataset: Dataset) -> pa.Table:
        table = dataset.interactions
        column = table.schema.get_field_index("split")
        return rows(
            Dataset(table.set_column(column, "split", pa.array(["train"] * len(table))), dataset.items), catalogue
        )

    with pytest.raises(AssertionError, match="it has seen them"):
        assert_no_future(careless, Dataset.load(worldly / "data"))


def test_no_review_of_a_held_out_event_stands_in_a_prompt(worldly: Path) -> None:
    """Said another way: reviews of held-out events are marked, and the mark is looked for."""
    dataset = perturbed(Dataset.load(worldly / "data"))  # its held-out words are "words of another event"
    held_out = set(dataset.interactions["review"].to_pylist())
    assert "words of another event" in held_out
    table = rows(dataset, Catalogue.load(worldly / "catalogue"))
    assert not any(
        "words of another event" in text for name in ("prompt", "answer") for text in table[name].to_pylist()
    )


def first_met(histories: Iterable[np.ndarray], n_items: int) -> np.ndarray:
    """(items,) number of each item in the order in which histories meet them; unmet ones last."""
    order = dict.fromkeys(int(item) for history in histories for item in history)
    met = [*order, *(item for item in range(n_items) if item not in order)]
    return np.argsort(met)


def neighbours(codes: np.ndarray, dataset: Dataset, width: int = 5) -> tuple[float, float]:
    """How often a held-out item's number stands within `width` after that of the item before it.

    Args:
        codes: (items,) place of each item in the order of the codes.

    Returns:
        That share over users, and what it is on average when held-out items are dealt out to users anew.
    """
    events = dataset.part("test")
    users, targets = events.rows, events.items
    last = np.array([dataset.before("valid")[user][-1] for user in users])

    def near(held_out: np.ndarray) -> float:
        return float(np.isin(codes[held_out] - codes[last], np.arange(1, width + 1)).mean())

    draw = np.random.default_rng(0)
    return near(targets), float(np.mean([near(draw.permutation(targets)) for _ in range(50)]))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pure chance, up to its codes: whoever foresees a held-out item there has seen it."""
    folder, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(1)
    words = ["".join(draw.choice(list("abcdefghij"), 6)) for _ in range(1500)]
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},{word}\n" for n, word in enumerate(words)))
    events = [
        f"u{user},i{item},{time}\n" for user in range(300) for time, item in enumerate(draw.integers(1500, size=8))
    ]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(events))
    (folder / "recipe.yaml").write_text(NOISE)
    return run(load_recipe(folder / "recipe.yaml"), folder / "run", until="catalogue")


def test_numbers_given_in_order_of_whole_histories_leak_and_are_caught(noise: Path) -> None:
    dataset = Dataset.load(noise / "data")
    found, chance = neighbours(first_met(dataset.histories, dataset.n_items), dataset)  # P5's, test parts included
    assert found > 0.2 > 10 * chance, (found, chance)
    with pytest.raises(AssertionError, match="it has seen them"):
        assert_no_future(lambda data: first_met(data.histories, data.n_items), dataset)


def test_our_codes_and_numbers_of_training_parts_pass_both_tests(noise: Path) -> None:
    dataset, catalogue = Dataset.load(noise / "data"), Catalogue.load(noise / "catalogue")
    place = np.argsort(np.lexsort(catalogue.codes.T[::-1]))
    honest = first_met(dataset.before("valid"), dataset.n_items)  # OpenP5's remedy
    for codes in (place, honest):
        found, chance = neighbours(codes, dataset)
        assert found < chance + 0.02, (found, chance)
    assert_no_future(lambda data: first_met(data.before("valid"), data.n_items), dataset)
