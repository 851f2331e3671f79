"""`assert_no_future` on everything that is fitted, and that it does see a leak where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from leaks import assert_no_future

from llmrec.data.clean import clean
from llmrec.data.dataset import Dataset
from llmrec.data.synthetic import read_synthetic
from llmrec.indexing import build
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.item_text import item_texts
from llmrec.items.item_vectors import encode
from llmrec.recipe import Data, Indexing, SyntheticConfig, Tasks
from llmrec.tasks import examples
from llmrec.tasks.inputs import TaskInputs

WORLD = SyntheticConfig(users=60, items=30, groups=3, events=8)


@pytest.fixture(scope="module", params=["leave-one-out", "temporal", "cold-items", "cold-users"])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    cleaned = clean(read_synthetic(WORLD), Data.model_validate({"source": "synthetic", "split": request.param}), 1)
    return Dataset(cleaned.interactions, cleaned.items)


def codes(data: Dataset, folder: Path) -> Path:
    """A catalogue folder of its own for each call."""
    folder = folder / str(len(list(folder.iterdir())))
    folder.mkdir()
    vectors = encode(item_texts(data.items, ["title"], "refuse"), "hashing", lambda done: None)
    build.make(Indexing(levels=2, width=8), data.items, vectors, 1, folder)
    return folder


def test_no_code_knows_the_future(dataset: Dataset, tmp_path: Path) -> None:
    assert_no_future(lambda data: codes(data, tmp_path), dataset)


def test_no_prompt_knows_the_future(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "codes").mkdir()
    (tmp_path / "prompts").mkdir()
    catalogue = Catalogue.load(codes(dataset, tmp_path / "codes"))

    def prompts(data: Dataset) -> Path:
        folder = tmp_path / "prompts" / str(len(list((tmp_path / "prompts").iterdir())))
        folder.mkdir()
        texts = item_texts(data.items, ["title"], "refuse")
        examples.make(Tasks(history=6), TaskInputs.load(data, catalogue, texts), 1, folder, workers=1)
        return folder

    assert_no_future(prompts, dataset)


@pytest.mark.parametrize(
    "leaky",
    [
        lambda data: np.bincount(data.histories.items, minlength=data.n_items),
        lambda data: data.before("test").items,
        lambda data: data.interactions["review"].to_pylist(),
        lambda data: float(np.mean(data.interactions["rating"].to_numpy())),
    ],
    ids=["popularity of everything", "validation items", "reviews", "mean rating"],
)
def test_a_component_that_looks_is_caught(leaky: object, dataset: Dataset) -> None:
    with pytest.raises(AssertionError, match="has seen them"):
        assert_no_future(leaky, dataset)  # type: ignore[arg-type]


def test_without_held_out_events_the_check_refuses_to_say_anything(dataset: Dataset) -> None:
    train = dataset.interactions.filter(np.asarray(dataset.splits == 0))
    with pytest.raises(AssertionError, match="holds out nothing"):
        assert_no_future(lambda data: 0, Dataset(train, dataset.items))
