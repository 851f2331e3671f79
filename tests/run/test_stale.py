"""A stage is made anew when what it hangs on changed, and a run that holds parts of two recipes is told, not judged."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from llmrec.cli.main import main
from llmrec.errors import RunError
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe_file import load
from llmrec.results import record
from llmrec.results.ledger import evaluate_test
from llmrec.run import execute
from llmrec.stage_record import read_record

FEW = ["train.0.epochs=0.2", "tasks.item_to_text=0", "tasks.text_to_item=0"]


@pytest.fixture
def here(world: Path, tmp_path: Path) -> Path:
    """The recipe of a world of one's own."""
    shutil.copytree(world.parent, tmp_path / "world")
    return tmp_path / "world" / "recipe.yaml"


def edit(recipe: Path, name: str, before: str, after: str) -> None:
    """Say something else in a file beside a recipe."""
    file = recipe.parent / name
    file.write_text(file.read_text().replace(before, after))


def test_a_catalogue_has_the_columns_and_ids_of_today_though_no_text_changed(here: Path, tmp_path: Path) -> None:
    plan, run = load(here, ["items.text=[title]"]), tmp_path / "run"
    execute.run(plan, run, "catalogue")
    edit(here, "items.csv", ",western", ",thriller")
    execute.run(plan, run, "catalogue")
    assert set(Catalogue.load(run / "catalogue").items["kind"].to_pylist()) >= {"thriller", "drama"}
    edit(here, "items.csv", "i39,", "j39,")
    edit(here, "log.csv", ",i39,", ",j39,")
    execute.run(plan, run, "catalogue")
    assert "j39" in Catalogue.load(run / "catalogue").item_ids


def test_a_taught_training_hangs_on_all_that_its_teacher_saw(here: Path, tmp_path: Path) -> None:
    """An event before the oldest window is in no example, and the teacher knows it all the same."""
    for more in ([], ["train.0.teacher_replace_prob=0.4", "train.0.teacher=markov"]):
        run = execute.run(load(here, [*FEW, *more]), tmp_path / f"run-{len(more)}", "train")
        read = read_record(run / "train-1-sft")["inputs"].get("collaborative/markov")
        assert read == (read_record(run / "collaborative" / "markov")["output"] if more else None)
    assert read_record(run / "collaborative" / "markov")["inputs"] == {"data": read_record(run / "data")["output"]}


def test_files_of_one_name_are_all_looked_at(here: Path, tmp_path: Path) -> None:
    log = (here.parent / "log.csv").read_text().splitlines()
    for name, lines in (("a", log[1:421]), ("b", log[421:])):
        (here.parent / name).mkdir()
        (here.parent / name / "part.csv").write_text("\n".join([log[0], *lines]) + "\n")
    plan = load(here, [f"data.interactions={here.parent}/*/part.csv"])
    execute.run(plan, tmp_path / "run", "data")
    assert read_json(tmp_path / "run" / "data" / "made.json")["facts"]["interactions"] == 840
    (here.parent / "a" / "part.csv").write_text("\n".join([log[0], *log[1:211]]) + "\n")
    execute.run(plan, tmp_path / "run", "data")
    assert read_json(tmp_path / "run" / "data" / "made.json")["facts"]["interactions"] == 630


@pytest.mark.parametrize(
    ("change", "until", "words"),
    [
        ("train.0.epochs=0.4", "tasks", r"train-1-sft was made with train\.epochs: 0\.2, and the recipe has 0\.4"),
        ("seed=8", "data", "items was made with seed 7, and the recipe has seed 8"),
        ("data.max_users=30", "data", "was made from another (data/items.parquet|data)"),
        ("tasks.history=4", "catalogue", r"tasks was made with history: 8, and the recipe has 4"),
    ],
)
def test_a_run_between_two_recipes_is_refused_by_all_that_tell_of_it(
    change: str, until: str, words: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = execute.run(load(here, FEW), tmp_path / "run", "evaluate")
    assert record.tested(run).figures == run / "evaluate-test"
    execute.run(load(here, [*FEW, change]), run, until)
    with pytest.raises(RunError, match=words):
        record.tested(run)
    with pytest.raises(RunError, match=words):
        evaluate_test(run, tmp_path / "book.jsonl", "", lambda kind, done: None)
    assert not (tmp_path / "book.jsonl").exists()
    for verb in ("evaluate", "report"):
        monkeypatch.setattr(sys, "argv", ["llmrec", verb, str(run)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert "as when a run with changes was stopped on its way" in " ".join(capsys.readouterr().err.split())
    execute.run(load(here, FEW), run, "evaluate")
    assert record.tested(run).figures == run / "evaluate-test"
