"""A bundle: what was packed here gives there, in an empty folder, the figures of a run that never travelled."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llmrec.files import hash_file
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import RunFolder
from llmrec.run.plan import plan
from llmrec.run.stage import require_current
from llmrec.stage_record import read_record

ROOT = Path(__file__).parent.parent.parent
SPEC = importlib.util.spec_from_file_location("bundle", ROOT / "scripts" / "bundle.py")
assert SPEC and SPEC.loader
bundle = sys.modules["bundle"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bundle)
SMALL = ["train.0.epochs=0.1", "evaluate.ranking=[hr@5]", "evaluate.beams=5", "evaluate.split=valid"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bundle.py", *map(str, arguments)])
    bundle.main()


def there(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """run.sh, with nothing of this test in the way; the bundle's llmrec comes before one that is installed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LLMREC_CACHE")}
    environment |= {"PYTHON": sys.executable, **more}
    return subprocess.run(["sh", "run.sh"], cwd=folder, capture_output=True, text=True, env=environment)


def test_a_folder_with_other_files_is_left_as_it_is(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "piece-000").write_text("ours")
    (tmp_path / "b" / "mine").write_text("kept")
    with pytest.raises(SystemExit, match="holds other files than a bundle"):
        call(monkeypatch, "pack", world, "--to", tmp_path / "b", "--runs", tmp_path / "runs", "--no-wheels")
    assert (tmp_path / "b" / "mine").read_text() == "kept"


def test_a_place_with_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text((ROOT / "scripts" / "bundle" / "run.sh").read_text().replace("@RUN@", "run"))
    (tmp_path / "SHA256SUMS").write_text(f"{hash_file(tmp_path / 'run.sh')}  run.sh\n")
    for name in ("work", "work.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("kept")
        done = there(tmp_path)
        assert done.returncode == 2 and "holds other files" in done.stderr
        assert (tmp_path / name / "mine").read_text() == "kept"


def test_a_bundle_trains_in_an_empty_folder_and_its_figures_come_back(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ["pack", world, "--name", "small", "--to", tmp_path / "b", "--runs", tmp_path / "runs", "--no-wheels"]
    call(monkeypatch, *here, "--piece", "1", "--set", *SMALL)
    pieces = sorted((tmp_path / "b").glob("piece-*"))
    assert pieces and all(piece.stat().st_size <= bundle.MIB for piece in pieces)
    done = there(tmp_path / "b")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "b" / "back.tar.gz") as archive:
        names = set(archive.getnames())
    assert "small/evaluate-valid/per_user.parquet" in names
    assert not any("/model/" in name or "safetensors" in name or name.endswith(".npy") for name in names)
    call(monkeypatch, "take", tmp_path / "b" / "back.tar.gz", "--runs", tmp_path / "runs")
    own = execute.run(load(world, SMALL), tmp_path / "own", "evaluate")
    files = ("evaluate-valid/metrics.json", "evaluate-valid/per_user.parquet")
    assert [hash_file(tmp_path / "runs" / "small" / file) for file in files] == [
        hash_file(own / file) for file in files
    ]
    taken, recipe = RunFolder(tmp_path / "runs" / "small"), load(world, SMALL)
    commits = [read_record(run.last_trained)["commit"] for run in (taken, RunFolder(own))]
    assert commits[0] == commits[1], "history does not travel, its end does"
    hashes = require_current(RunFolder(own), plan(recipe), recipe.seed)
    assert require_current(taken, plan(recipe), recipe.seed, all_files=False) == hashes


def test_a_look_at_the_test_part_and_its_ledger_come_back_without_weights(tmp_path: Path) -> None:
    script = (ROOT / "scripts" / "bundle" / "run.sh").read_text().replace("@RUN@", "small").replace("@COMMIT@", "c")
    (tmp_path / "run.sh").write_text(script)
    (tmp_path / "python").write_text(f'#!/bin/sh\nshift 2\necho "$*" >>{tmp_path}/called\n')
    (tmp_path / "python").chmod(0o755)
    made = ["ledger.jsonl", "recipe.yaml", "evaluate-test/metrics.json", "train-1-sft/model/model.safetensors"]
    for name in ("work/.unpacked", *(f"work/runs/small/{name}" for name in made)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert not there(tmp_path, PYTHON=str(tmp_path / "python"), TEST="1").returncode
    run, look = (tmp_path / "called").read_text().splitlines()
    assert run.startswith("run recipe.yaml --until evaluate") and look.startswith("evaluate runs/small --test --ledger")
    with tarfile.open(tmp_path / "back.tar.gz") as archive:
        assert sorted(archive.getnames()) == sorted(f"small/{name}" for name in made[:3])


def test_a_broken_piece_is_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ["pack", world, "--name", "small", "--to", tmp_path / "b", "--runs", tmp_path / "runs", "--no-wheels"]
    call(monkeypatch, *here, "--tiny")
    piece = tmp_path / "b" / "piece-000"
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    done = there(tmp_path / "b")
    assert done.returncode
    assert "piece-000: FAILED" in done.stdout + done.stderr
    assert not (tmp_path / "b" / "work").exists()


def test_wheels_are_what_that_machine_lacks(tmp_path: Path) -> None:
    lacks = {line.split("==")[0] for line in bundle.missing(None)}
    assert {"duckdb", "peft", "pyarrow"} <= lacks
    assert not {"torch", "transformers", "numpy", "llmrec", "gradio", "ruff", "tensorboard", "bitsandbytes"} & lacks
    assert "bitsandbytes" in {line.split("==")[0] for line in bundle.missing(None, qlora=True)}
    (tmp_path / "freeze.txt").write_text("PyArrow==26\npeft @ file:///x\n")
    some = {line.split("==")[0] for line in bundle.missing(tmp_path / "freeze.txt")}
    assert "torch" in some and not {"pyarrow", "peft"} & some
