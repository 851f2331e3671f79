"""Paths: however one is written, and wherever the command is typed, a run is the same run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrec.recipe import Recipe
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.plan import plan
from llmrec.run.stage import Outside


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a world in it."""
    shutil.copytree(world.parent, tmp_path / "here" / "world")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda here: Path("runs/a"),
    "dotted": lambda here: Path("./runs/../runs/./a"),
    "absolute": lambda here: here / "runs" / "a",
    "through a link": lambda here: Path("link/a"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_run_folder_is_the_same_however_it_is_written(spelling: str, here: Path) -> None:
    execute.run(load(Path("world/recipe.yaml")), Path("runs/a"), "catalogue")
    times = {path: path.stat().st_mtime_ns for path in here.glob("runs/a/*/made.json")}
    Path("link").symlink_to("runs")
    execute.run(load(here / "world" / "recipe.yaml"), SPELLINGS[spelling](here), "catalogue")
    assert len(times) == 3 and {path: path.stat().st_mtime_ns for path in here.glob("runs/a/*/made.json")} == times


def keys(recipe: Recipe) -> list[object]:
    """What the keys of a recipe's stages depend on, and where it lies."""
    return [
        (spec.name, spec.config, [read.find() if isinstance(read, Outside) else read for read in spec.reads])
        for spec in plan(recipe)
    ]


@pytest.mark.parametrize(
    "key", ["data.interactions", "data.items", "model.init_from", "model.base", "tasks.oracle.cache"]
)
def test_a_path_is_relative_to_its_recipe_whatever_folder_one_is_in(
    key: str, here: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "data.interactions": ("log.csv", "data: {source: files, interactions: %s, items: items.csv}"),
        "data.items": ("items.csv", "data: {source: files, interactions: log.csv, items: %s}"),
        "model.init_from": ("before", "model: {init_from: %s}"),
        "model.base": ("base", "model: {base: %s}"),
        "tasks.oracle.cache": ("words.jsonl", "tasks: {oracle: {by: replay, cache: %s}}"),
    }
    name, text = names[key]
    shutil.copytree(tiny_run, here / "world" / "before")
    shutil.copytree(tiny_run / "train-1-sft" / "model", here / "world" / "base")
    (here / "world" / "words.jsonl").write_text("")
    given = [name, f"./{name}", f"../world/{name}", str(here / "world" / name)]
    (here / "elsewhere").mkdir()
    found = []
    for number, spelled in enumerate(given):
        recipe = here / "world" / f"{number}.yaml"
        recipe.write_text(f"items: {{encoder: hashing}}\n{text % spelled}\n")
        for folder in (here, here / "world", here / "elsewhere"):
            monkeypatch.chdir(folder)
            found.append(keys(load(Path(os.path.relpath(recipe)))))
    assert all(one == found[0] for one in found)


def test_going_on_from_a_run_is_not_starting_anew_and_depends_on_its_model_alone(here: Path, tiny_run: Path) -> None:
    recipe = load(Path("world/recipe.yaml"))
    for name in ("one", "two"):
        shutil.copytree(tiny_run, here / name)
    run = execute.run(load(Path("world/recipe.yaml"), ["model.init_from=one"]), Path("runs/a"), "catalogue")
    made = (run / "catalogue" / "made.json").stat().st_mtime_ns
    execute.run(load(Path("world/recipe.yaml"), ["model.init_from=two"]), Path("runs/a"), "catalogue")
    assert (run / "catalogue" / "made.json").stat().st_mtime_ns == made
    execute.run(recipe, Path("runs/a"), "catalogue")
    assert (run / "catalogue" / "made.json").stat().st_mtime_ns != made
