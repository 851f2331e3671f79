"""The weekly refresh: a run that goes on from another's model starts from its figures, not from zero."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe_file import load
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder

HARDLY = ["train.0.epochs=0.1", "train.0.learning_rate=1.0e-6"]  # too little to learn anything from scratch


def hit_at_1(folder: Path) -> float:
    metrics = read_json(RunFolder(folder).evaluation("test") / "metrics.json")
    return float(metrics["systems"][metrics["model"]]["hr@1"]["mean"])


def test_a_warm_start_keeps_codes_and_starts_from_the_old_figures(world: Path, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    with (tmp_path / "world" / "items.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["late", "Film number 99 iii", "drama"])
    with (tmp_path / "world" / "log.csv").open("a", newline="") as file:
        csv.writer(file).writerows([["u0", "late", 2_000_000], ["u0", "i3", 2_000_060], ["u0", "i4", 2_000_120]])
    recipe = tmp_path / "world" / "recipe.yaml"
    cold = run(load(recipe, HARDLY), tmp_path / "cold")
    warm = run(load(recipe, [f"model.init_from={tiny_run}", *HARDLY]), tmp_path / "warm")
    old, new = Catalogue.load(tiny_run / "catalogue"), Catalogue.load(warm / "catalogue")
    assert new.tokens == old.tokens
    assert len(new.item_ids) == len(old.item_ids) + 1
    for item_id, code in zip(old.item_ids, old.code_texts, strict=True):
        assert new.code_texts[new.item_number[item_id]] == code
    assert hit_at_1(tiny_run) > 0.3
    assert hit_at_1(warm) > hit_at_1(tiny_run) - 0.1
    assert hit_at_1(cold) < hit_at_1(tiny_run) / 3
