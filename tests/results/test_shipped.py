"""Shipped recipes run through from end to end at their smallest."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmrec
from llmrec import resources
from llmrec.recipe_file import load
from llmrec.report import write_report
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder
from llmrec.stage_record import read_record


@pytest.mark.slow("20 s for a recipe")
@pytest.mark.parametrize("name", ["quickstart", "ml100k-smollm2"])
def test_a_shipped_recipe_runs_through_and_recommends_real_unseen_items(name: str, tmp_path: Path) -> None:
    if not all(resources.is_downloaded(part) for part in ("ml-100k", "minilm-l6")):
        pytest.skip("MovieLens 100K and MiniLM are not in the cache: `llmrec setup` fetches them")
    recipe = load(resources.recipe_path(name), ["train.0.epochs=0.1"], tiny=True)
    out = run(recipe, tmp_path / name)
    history = ["50", "181", "172"]
    found = [item for item, _ in llmrec.load(out).recommend(history, k=10)]
    assert len(set(found)) == 10
    assert set(found).isdisjoint(history)
    facts = read_record(RunFolder(out).last_trained)["facts"]
    assert facts["new rows"]["input"]["mean distance"] > 0
    assert (facts["trained parameters"] < facts["parameters"]) == (recipe.model.adapt == "lora")
    assert write_report(RunFolder(out)).is_file()
