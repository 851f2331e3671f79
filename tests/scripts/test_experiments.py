"""Ablations, growth and beams at tiny size: differences are paired, finished stages shared, nothing done twice."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

import ablations
import beams
import growth
from llmrec import resources
from llmrec.files import hash_folder, read_json
from llmrec.recipe_file import dump, fingerprint, load
from llmrec.run import execute

SMALL = ["train.0.epochs=0.5", "evaluate.ranking=[hr@10,ndcg@10]", "evaluate.beams=10", "indexing.reserved_tokens=0"]


def in_this_process(verb: str, recipe: Path, *given: object) -> None:
    """What the scripts call `llmrec run` for."""
    changes, (_, stage, _, run) = given[:-4], given[-4:]  # … --until STAGE --out RUN
    execute.run(load(recipe, list(map(str, changes))), Path(str(run)), str(stage))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs, which are made without processes of their own."""
    for module in (ablations, growth):
        monkeypatch.setattr(module, "call_llmrec", in_this_process)
    return tmp_path / "runs"


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_factors_are_compared_in_pairs_and_share_what_they_leave_alone(
    runs: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [world, "--only", "smoothing", "beams-20", "no-average", "--runs", runs, "--out", tmp_path, "--set", *SMALL]
    call(ablations, monkeypatch, *given)
    folder = runs / "recipe-ablations"
    assert sorted(path.name for path in folder.iterdir()) == ["base", "beams-20", "smoothing"], (
        "no-average is the recipe"
    )
    told = read_json(tmp_path / "recipe-ablations.json")
    assert told["protocol"]["target"] == "valid"
    users = {
        name: pq.read_table(folder / name / "evaluate-valid" / "per_user.parquet").to_pandas().set_index("user_id")
        for name in ("base", "beams-20", "smoothing")
    }
    for name, factor in told["figures"]["factors"].items():
        truth = (users[name]["nano ndcg@10"] - users["base"]["nano ndcg@10"]).mean()
        assert factor["difference"]["ndcg@10"]["mean"] == pytest.approx(truth)
    made = [folder / name / "train-1-sft" / "made.json" for name in ("base", "beams-20", "smoothing")]
    assert made[0].stat().st_ino == made[1].stat().st_ino != made[2].stat().st_ino
    svg = (tmp_path / "recipe-ablations.svg").read_text()
    assert ">20 beams<" in svg and ">label smoothing within a level, .1<" in svg

    said = f"python scripts/experiments/ablations.py recipe --only smoothing beams-20 --set {' '.join(SMALL)}"
    assert told["command"] == said

    shutil.copytree(folder, runs / "short-ablations")
    call(ablations, monkeypatch, *given, "--name", "short", "--collect")
    named = read_json(tmp_path / "short-ablations.json")
    assert (named["command"], named["figures"]) == (f"{said} --name short", told["figures"])

    before = hash_folder(folder), [file.stat().st_mtime_ns for file in made]
    call(ablations, monkeypatch, *given)
    assert (hash_folder(folder), [file.stat().st_mtime_ns for file in made]) == before


def test_a_factor_that_was_stopped_has_no_figures(tiny_run: Path, tmp_path: Path) -> None:
    """It begins with the recipe's own stages, whose figures must not be taken for its."""
    shutil.copytree(tiny_run, tmp_path / "base")
    ablations.begin(tmp_path / "base", tmp_path / "smoothing")
    recipe = load(tiny_run / "recipe.yaml", ["train.0.label_smoothing=0.1"])
    (tmp_path / "smoothing" / "recipe.yaml").write_text(dump(recipe))
    assert (tmp_path / "smoothing" / "train-1-sft" / "model").is_dir()
    assert ablations.collect(tmp_path, ablations.FACTORS)["factors"] == {}


def test_every_factor_is_one_change_that_recipes_know() -> None:
    recipe = resources.recipe_path("beauty-nano")
    hashes = {}
    for name, (_, changes) in ablations.FACTORS.items():
        hashes[name] = fingerprint(load(recipe, ablations.overrides(recipe, ablations.ALWAYS, changes)))
    base = fingerprint(load(recipe, list(ablations.ALWAYS)))
    same = {name for name, one in hashes.items() if one == base}
    at_rest = {"vocabulary", "no-smoothing", "no-average", "no-alignment", "separating-level"}
    assert same == at_rest | {"beams-20", "blend", "one-window", "rows-vectors", "title-brand-category"}
    assert len(set(hashes.values()) - {base}) == len(hashes) - len(same), "no two factors are one"
    more = load(recipe, ablations.overrides(recipe, [], ablations.FACTORS["s-dpo"][1])).train
    assert [stage.method for stage in more] == ["sft", "s-dpo"]
    assert more[0] == load(recipe).train[0]


def test_growth_tells_every_stage_of_a_share_of_the_users(
    runs: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [world, "--shares", "0.5", "--runs", runs, "--out", tmp_path, "--set", *SMALL, "evaluate.baselines=[]"]
    call(growth, monkeypatch, *given)
    told = read_json(tmp_path / "growth-recipe.json")["figures"]
    assert list(told) == ["0.5"], "the run with all users was begun to count them, and not finished"
    half = told["0.5"]
    assert half["users"] == 30
    assert set(half["seconds"]) == {"data", "items", "catalogue", "tasks", "train-1-sft", "evaluate-valid"}
    assert set(half["peak MiB"]) == set(half["seconds"])
    assert (tmp_path / "growth-recipe.svg").is_file()


def test_beams_are_measured_against_an_exact_ranking(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(beams, monkeypatch, tiny_run, "--users", 20, "--beams", 10, 40, "--out", tmp_path)
    told = read_json(tmp_path / "tiny-beams.json")
    ways = told["figures"]
    assert told["users"] == 20 and told["target"] == "valid"
    assert ways["exact"]["of the exact ten"] == 1.0
    assert ways["40"]["of the exact ten"] == 1.0, "as many beams as items lose nothing"
    assert ways["40"]["ndcg@10"] == ways["exact"]["ndcg@10"]
    assert 0 < ways["10"]["of the exact ten"] <= 1 and np.isfinite(ways["10"]["seconds"])
