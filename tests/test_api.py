"""The Python functions do what the commands do, and the examples of docs/python.md run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import llmrec
from llmrec.errors import RecipeError, RunError
from llmrec.evaluate.files import read_evaluation
from llmrec.recipe_file import load
from llmrec.run.layout import RunFolder

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
NEW = "item_id,title,kind\nnew1,Film number 3 dddd,drama\nnew2,Film number 4 eeee,western\n"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_recipe_runs_by_path_with_overrides_as_text_or_as_values(world: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    short = {"train.0.epochs": 1, "evaluate.baselines": ["popularity"]}
    first = llmrec.run_recipe(world, short, tmp_path / "run", progress=lambda stage, done: seen.append(stage))
    assert first == tmp_path / "run"
    assert RunFolder(first).evaluation("test").is_dir()
    assert seen[0] == "data" and seen[-1] == "evaluate"
    again = llmrec.run_recipe(str(world), ["train.0.epochs=1", "evaluate.baselines=[popularity]"], tmp_path / "run")
    assert again == first
    assert load(RunFolder(first).recipe) == load(world, ["train.0.epochs=1", "evaluate.baselines=[popularity]"])


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe 'none'"):
        llmrec.run_recipe("none", out=tmp_path / "run")


def test_evaluate_returns_the_figures_of_the_run(run: Path) -> None:
    assert llmrec.evaluate_run(run) == read_evaluation(RunFolder(run).evaluation("test"))
    assert llmrec.evaluate_run(str(run), split="valid")["protocol"]["target"] == "valid"
    other = llmrec.evaluate_run(run, beams=12)
    assert other["protocol"]["beams"] == 12
    assert llmrec.evaluate_run(run)["protocol"]["beams"] == 10, "figures with other beams are not kept"


def test_evaluate_keeps_a_closed_test_part_closed(run: Path) -> None:
    recipe = RunFolder(run).recipe
    recipe.write_text(recipe.read_text().replace("split: test", "split: valid"))
    with pytest.raises(RunError, match="keeps its test part closed"):
        llmrec.evaluate_run(run, split="test")


def test_added_items_are_recommended_without_training(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW)
    folder = llmrec.add_items(run, tmp_path / "new.csv")
    assert folder.parent == RunFolder(run).catalogues
    rec = llmrec.load(run, catalogue=folder)
    assert len(rec.catalogue) == 42
    assert [item for item, _ in rec.recommend(["i1", "i2"], 2, allow=["new1", "new2"])]
    assert len(llmrec.load(run).catalogue) == 40


def test_the_examples_of_the_page_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new-items.csv").write_text(NEW)
    monkeypatch.setattr(llmrec, "run_recipe", lambda *arguments, **more: run)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    code = re.sub(r'"(50|181|172|1|100)"', lambda found: f'"i{int(found[1]) % 40}"', "\n".join(blocks))
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    lists = [line for line in capsys.readouterr().out.splitlines() if line.startswith("['i")]
    assert len(lists) == 6, "three users as a batch, the same three as a stream"
    assert lists[:3] == lists[3:]
