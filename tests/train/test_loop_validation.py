"""Validation while training: the figure of the final evaluation on the validation split, blind to test items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import llmrec
from llmrec.data.dataset import Dataset
from llmrec.errors import DataError
from llmrec.evaluate.ranking import evaluate, validator
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.recipe import Validation
from llmrec.recipe_file import load


def figure(run: Path, dataset: Dataset, **given: int | str) -> float:
    settings = Validation(every=1, metric="ndcg@5", **given)
    measure = validator(settings, load(run / "recipe.yaml").evaluate, dataset, Catalogue.load(run / "catalogue"), 7)
    return measure(*model_folder.load(run / "train-1-sft" / "model"))["ndcg@5"]


def test_it_is_the_evaluation_of_the_validation_split(tiny_run: Path, tmp_path: Path) -> None:
    dataset, settings = Dataset.load(tiny_run / "data"), load(tiny_run / "recipe.yaml").evaluate
    recommender = llmrec.load(tiny_run, settings.template == "held-out").recommender
    on_valid = settings.model_copy(update={"split": "valid"})
    truth = evaluate(recommender, "nano", dataset, on_valid, {}, 7, tmp_path, lambda done: None)
    assert figure(tiny_run, dataset, users=1000) == pytest.approx(truth["systems"]["nano"]["ndcg@5"]["mean"], abs=1e-6)
    assert figure(tiny_run, dataset, users=9) == figure(tiny_run, dataset, users=9)


def test_test_items_change_nothing_and_validation_items_do(tiny_run: Path) -> None:
    dataset = Dataset.load(tiny_run / "data")
    found = {"as it is": figure(tiny_run, dataset)}
    for split in ("valid", "test"):
        ids = np.array(dataset.interactions["item_id"].to_pylist())
        held = np.array(dataset.interactions["split"].to_pylist()) == split
        ids[held] = np.random.default_rng(0).choice(dataset.item_ids, held.sum())
        place = dataset.interactions.schema.get_field_index("item_id")
        changed = dataset.interactions.set_column(place, "item_id", pa.array(ids))
        found[split] = figure(tiny_run, Dataset(changed, dataset.items))
    assert found["test"] == found["as it is"] != found["valid"]


def test_nobody_to_validate_is_told(tiny_run: Path) -> None:
    dataset = Dataset.load(tiny_run / "data")
    train = dataset.interactions.filter(pc.not_equal(dataset.interactions["split"], "valid"))
    with pytest.raises(DataError, match=r"no user has a validation item.*validation\.every: 0"):
        figure(tiny_run, Dataset(train, dataset.items))
