"""What a run has made stays until what takes its place is whole, whatever stops the run on its way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec.errors import LlmrecError, RunError
from llmrec.files import hash_folder
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import RunFolder

SMALL = ["train.0.epochs=0.2", "model.width=32", "model.heads=1", "evaluate.baselines=[]"]
BROKEN = ["model.base=embedded:nosuch"]  # so training ends in an error
TRAINED = ("train-1-sft", "train-2-dpo")
OTHER = [*SMALL, "train.0.epochs=1", "train.0.learning_rate=1.0e-3", "train.0.save_every=2"]
PLACES = {
    "os.rename .train-1-sft.partial": "new",
    "os.mkdir checkpoint-4": "checkpoint",
    "os.rename run/train-1-sft": "old",
    "os.rename train-1-sft.partial": "memory",
}


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that is not hidden → what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two trained models, of which the recipe names the first alone; tests copy it."""
    run = execute.run(load(world, SMALL), tmp_path_factory.mktemp("trained") / "run", "train")
    shutil.copytree(run / "train-1-sft", run / "train-2-dpo")
    return run


@pytest.mark.parametrize("change", [[], ["train.0.epochs=0.3"], ["tasks.passes=1"], ["model.dropout=0.1"]])
def test_trained_models_stay_when_the_training_that_should_replace_them_fails(
    change: list[str], trained: Path, world: Path, tmp_path: Path
) -> None:
    """Those that the recipe no longer names, too; once the new model is whole, they go."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = [everything(run / name) for name in TRAINED]
    with pytest.raises(LlmrecError, match="nosuch"):
        execute.run(load(world, [*SMALL, *change, *BROKEN]), run, "train")
    assert [everything(run / name) for name in TRAINED] == before
    execute.run(load(world, [*SMALL, *change]), run, "train")
    assert [path.name for path in RunFolder(run).trained] == ["train-1-sft"]


def test_a_stage_that_other_stages_read_stays_when_its_maker_fails(trained: Path, world: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = everything(run)
    with pytest.raises(LlmrecError, match="1000 events"):
        execute.run(load(world, [*SMALL, "data.k_core=1000"]), run, "train")
    del before["recipe.yaml"]
    assert {name: content for name, content in everything(run).items() if name != "recipe.yaml"} == before


def killed(*arguments: object) -> str:
    """What `killed.py` prints."""
    line = [sys.executable, str(Path(__file__).with_name("killed.py")), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def interrupted(trained: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of a run, whose training by another recipe was killed at places."""
    folder = tmp_path_factory.mktemp("interrupted")
    runs = {place: shutil.copytree(trained, folder / name / "run") for place, name in PLACES.items()}
    killed("at", world, *(f"{place}={run}" for place, run in runs.items()), *OTHER)
    return folder


@pytest.mark.parametrize("name", ["new", "checkpoint", "old"])
def test_a_kill_before_a_new_model_stands_leaves_the_old_one(
    name: str, interrupted: Path, trained: Path, world: Path
) -> None:
    """Killed right before the new folder takes its name, at a checkpoint, or before the old one is moved away."""
    run = execute.run(load(world, SMALL), interrupted / name / "run", "train")
    assert everything(run / "train-1-sft") == everything(trained / "train-1-sft")  # its log tells seconds: not new


def test_a_run_killed_again_and_again_ends_with_the_files_of_one_that_was_not(world: Path, tmp_path: Path) -> None:
    """Each time a few writes later than before, so in every stage, between checkpoints and in the middle of them."""
    changes = [
        *SMALL,
        "model.layers=1",
        "tasks={mixture: none, next_item: 1}",
        "train.0.epochs=1",
        "train.0.save_every=4",
    ]
    assert int(killed("again", world, tmp_path / "killed", 2, *changes)) >= 20
    whole = execute.run(load(world, changes), tmp_path / "whole", "train")
    for stage in RunFolder(whole).stages:
        assert hash_folder(tmp_path / "killed" / stage.name, ("made.json", "log.jsonl")) == hash_folder(
            stage, ("made.json", "log.jsonl")
        )
    assert sorted(os.listdir(tmp_path / "killed")) == sorted(os.listdir(whole))  # noqa: PTH208  # names alone


def test_what_an_out_of_memory_message_advises_goes_on_from_the_last_checkpoint(interrupted: Path, world: Path) -> None:
    """gradient_accumulation and gradient_checkpointing change neither the work nor a finished model."""
    run = interrupted / "memory" / "run"
    assert list(run.glob(".work/train-1-sft/checkpoint-*"))
    shares: list[float] = []
    how = [
        "train.0.gradient_accumulation=2",
        "train.0.gradient_checkpointing=true",
        "train.0.save_every=50",
        "evaluate.batch=3",
    ]
    execute.run(
        load(world, [*OTHER, *how]), run, "train", lambda kind, done: shares.append(done) if kind == "train" else None
    )
    assert min(share for share in shares if share) > 0.5  # nothing before the checkpoint is trained again
    made = (run / "train-1-sft" / "made.json").stat().st_mtime_ns
    execute.run(load(world, [*OTHER, "train.0.gradient_accumulation=4"]), run, "train")
    assert (run / "train-1-sft" / "made.json").stat().st_mtime_ns == made


def test_two_at_once_on_one_folder_is_one_and_a_refusal(trained: Path, world: Path, tmp_path: Path) -> None:
    from llmrec.run.run_lock import lock

    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = everything(run)
    with lock(RunFolder(run)):
        for call in (execute.run, execute.train):
            with pytest.raises(RunError, match=r"in use by process \d+ .*--out DIR"):
                call(load(world, [*SMALL, "seed=8"]), run)
    assert everything(run) == before
