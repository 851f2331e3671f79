"""A run: made once, gone on with where it stopped, and the same to the bit whatever happened on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrec.errors import RunError
from llmrec.files import hash_folder
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import RunFolder

FOLDERS = ("data", "items", "catalogue", "tasks", "train-1-sft", "evaluate-test")
SMALL = ["train.0.epochs=0.2", "evaluate.ranking=[hr@1]", "evaluate.beams=2"]


def written(run: Path) -> dict[str, int]:
    """When each stage was made."""
    return {name: (run / name / "made.json").stat().st_mtime_ns for name in FOLDERS}


def command(recipe: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "llmrec.cli.main", "run", str(recipe), "--until", "train", "--out", str(run)]


def stopped_in_training(recipe: Path, run: Path, kind: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a run and send it a signal once it has a checkpoint."""
    process = subprocess.Popen(command(recipe, run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while not list(run.glob(".work/*/checkpoint-*/whole")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(kind)
    output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@pytest.fixture(scope="module")
def small(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps; tests copy it."""
    return execute.run(load(world, SMALL), tmp_path_factory.mktemp("small") / "run")


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


def test_a_second_run_makes_nothing(copied: Path, world: Path) -> None:
    before = written(copied), hash_folder(copied, without=("report.html",))
    execute.run(load(world, SMALL), copied)
    assert (written(copied), hash_folder(copied, without=("report.html",))) == before


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("data.max_users=50", ["items", "catalogue"]),  # other users, the same items
        ("items.text=[title]", ["data"]),
        ("indexing.width=6", ["data", "items"]),
        ("tasks.passes=1", ["data", "items", "catalogue"]),
        ("train.0.learning_rate=2.0e-3", ["data", "items", "catalogue", "tasks"]),
        ("evaluate.beams=3", ["data", "items", "catalogue", "tasks", "train-1-sft"]),
    ],
)
def test_a_changed_part_redoes_just_what_depends_on_it(change: str, kept: list[str], copied: Path, world: Path) -> None:
    before = written(copied)
    execute.run(load(world, [*SMALL, change]), copied)
    assert [name for name, when in written(copied).items() if when == before[name]] == kept


def test_a_changed_log_redoes_the_data(small: Path, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    run = Path(shutil.copytree(small, tmp_path / "run"))
    before = written(run)
    with (tmp_path / "world" / "log.csv").open("a") as log:
        log.write("u1,i1,99999999\n")
    execute.run(load(tmp_path / "world" / "recipe.yaml", SMALL), run)
    assert written(run)["data"] != before["data"]


def test_a_moved_world_is_the_same_world(copied: Path, world: Path, tmp_path: Path) -> None:
    """Files are known by their content: the same recipe in another folder makes nothing anew."""
    before = written(copied)
    shutil.copytree(world.parent, tmp_path / "moved")
    execute.run(load(tmp_path / "moved" / "recipe.yaml", SMALL), copied)
    assert written(copied) == before


def test_until_stops_after_its_stage_and_the_next_run_goes_on(world: Path, tmp_path: Path) -> None:
    told: list[str] = []
    execute.run(load(world, SMALL), tmp_path / "run", "catalogue", lambda stage, done: told.append(stage))
    assert list(dict.fromkeys(told)) == ["data", "items", "catalogue"]
    assert not (tmp_path / "run" / "tasks").exists()
    with pytest.raises(RunError, match="has no trained model"):
        RunFolder(tmp_path / "run").last_trained  # noqa: B018


def test_two_runs_of_one_recipe_are_the_same_to_the_bit(small: Path, world: Path, tmp_path: Path) -> None:
    again = execute.run(load(world, SMALL), tmp_path / "again")
    for name in (*FOLDERS[:4], "train-1-sft/model", "evaluate-test"):
        assert hash_folder(again / name) == hash_folder(small / name), name


def test_another_seed_is_another_run(small: Path, world: Path, tmp_path: Path) -> None:
    other = execute.run(load(world, [*SMALL, "seed=8"]), tmp_path / "other", "train")
    assert hash_folder(other / "train-1-sft" / "model") != hash_folder(small / "train-1-sft" / "model")


def test_a_killed_run_ends_with_the_same_model_as_an_uninterrupted_one(
    tiny_run: Path, world: Path, tmp_path: Path
) -> None:
    killed = stopped_in_training(world, tmp_path / "run", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "train-1-sft").exists()
    subprocess.run(command(world, tmp_path / "run"), check=True, capture_output=True)
    one, other = (run / "train-1-sft" / "model" for run in (tiny_run, tmp_path / "run"))
    assert hash_folder(one) == hash_folder(other)
    assert not list((tmp_path / "run" / ".work").iterdir())


def test_ctrl_c_ends_in_130_with_one_sentence_and_the_next_run_goes_on(
    tiny_run: Path, world: Path, tmp_path: Path
) -> None:
    stopped = stopped_in_training(world, tmp_path / "run", signal.SIGINT)
    assert stopped.returncode == 130, stopped.stdout
    assert "Repeat the command to resume" in stopped.stdout
    assert "Traceback" not in stopped.stdout
    subprocess.run(command(world, tmp_path / "run"), check=True, capture_output=True)
    one, other = (run / "train-1-sft" / "model" for run in (tiny_run, tmp_path / "run"))
    assert hash_folder(one) == hash_folder(other)


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    from llmrec.train.callbacks import newest_checkpoint

    for number, whole in ((20, True), (100, True), (120, False)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{number}" / "whole").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert not (tmp_path / "checkpoint-120").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_told_in_words(world: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"permission is denied\. .*--out DIR"):
        execute.run(load(world, SMALL), tmp_path / "run")
