"""Stages: made once, made again only when what they depend on changes, and never half."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrec.errors import RunError
from llmrec.files import hash_bytes, hash_json
from llmrec.run.layout import RunFolder
from llmrec.run.run_lock import lock
from llmrec.run.stage import Stage
from llmrec.stage_record import read_record


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden things as well."""
    return sorted(path.name for path in folder.iterdir())


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> dict[str, int]:
        self.times += 1
        (folder / "result").write_text("made")
        return {"times": self.times}


def stage(folder: Path) -> Stage:
    return Stage(folder / "stage", 1, {"width": 8, "also": [1, 2]}, {"data": "abc"}, 7)


def run(stage: Stage, make: Callable[[Path], dict[str, int]]) -> str:
    """Make a stage unless it is made; hash of its files."""
    if not stage.is_made():
        stage.make(make)
    return read_record(stage.folder)["output"]


def test_a_made_stage_is_skipped_and_gives_the_same_hash(tmp_path: Path) -> None:
    make = Maker()
    assert run(stage(tmp_path), make) == run(stage(tmp_path), make) == hash_json([["result", hash_bytes(b"made")]])
    assert make.times == 1


def test_the_order_of_recipe_keys_is_nothing(tmp_path: Path) -> None:
    run(stage(tmp_path), Maker())
    assert replace(stage(tmp_path), config={"also": [1, 2], "width": 8}).is_made()


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"config": {"width": 9}}, {"inputs": {"data": "abd"}}, {"inputs": {"date": "abc"}}, {"seed": 8}],
)
def test_whatever_a_stage_depends_on_makes_it_anew(change: dict[str, Any], tmp_path: Path) -> None:
    make = Maker()
    run(stage(tmp_path), make)
    run(replace(stage(tmp_path), **change), make)
    assert make.times == 2


def test_made_json_says_what_was_made_of_what(tmp_path: Path) -> None:
    run(stage(tmp_path), Maker())
    made = json.loads((tmp_path / "stage" / "made.json").read_text())
    assert (made["config"], made["inputs"], made["version"], made["seed"]) == (
        {"width": 8, "also": [1, 2]},
        {"data": "abc"},
        1,
        7,
    )
    assert made["facts"] == {"times": 1}
    assert {"torch", "numpy", "python", "llmrec"} <= set(made["versions"])
    assert made["device"] and made["seconds"] >= 0


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, RunError])
def test_a_maker_that_fails_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("")
        raise error

    with pytest.raises(error):
        run(stage(tmp_path), fail)
    assert names(tmp_path) == []


def test_a_maker_that_fails_keeps_the_older_result(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        raise ZeroDivisionError

    run(stage(tmp_path), Maker())
    with pytest.raises(ZeroDivisionError):
        run(replace(stage(tmp_path), seed=8), fail)
    assert stage(tmp_path).is_made()


def test_a_full_disk_in_a_stage_is_told_in_words_and_leaves_nothing(tmp_path: Path) -> None:
    def fill_the_disk(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"the disk is full\. .*--out DIR"):
        run(stage(tmp_path), fill_the_disk)
    assert names(tmp_path) == []


def test_a_run_in_use_says_by_whom(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom llmrec.run.layout import RunFolder\nfrom llmrec.run.run_lock import lock\n"
        "with lock(RunFolder(pathlib.Path(sys.argv[1]))):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    try:
        with (
            pytest.raises(RunError, match=rf"in use by process {holder.pid} on .* since "),
            lock(RunFolder(tmp_path / "run")),
        ):
            pass
    finally:
        holder.communicate("")
    with lock(RunFolder(tmp_path / "run")):
        pass  # whoever held it is gone


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(RunFolder(tmp_path)):
        raise ZeroDivisionError
    with lock(RunFolder(tmp_path)):
        pass
