"""The patches of docs/how-to-add.md apply to the package, and what they add works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documented import ROOT, blocks, commands

PAGE = ROOT / "docs" / "how-to-add.md"
MOST_LINES = 60


def test_each_example_is_short() -> None:
    sections = PAGE.read_text().split("\n## ")[1:]
    added = [
        len(re.findall(r"^\+(?!\+\+ )", "".join(re.findall(r"```diff\n(.*?)```", each, re.S)), re.M))
        for each in sections
    ]
    assert len(added) == 6 and all(0 < lines < MOST_LINES for lines in added), added


@pytest.mark.slow("applies the patches to a copy of the package and runs it, a minute")
def test_the_patches_apply_and_the_commands_run(tmp_path: Path, world: Path) -> None:
    copy, user = tmp_path / "copy", tmp_path / "user"
    for name in ("llmrec", "prompts", "recipes", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for patch in blocks(PAGE, "diff"):
        subprocess.run(["git", "apply", "--unidiff-zero", "-"], cwd=copy, input=patch, text=True, check=True)
    environment = os.environ | {"PYTHONPATH": str(copy), "LLMREC_DATA": str(tmp_path / "data")}

    def call(*words: str, cwd: Path = user) -> str:
        done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    films = tmp_path / "data" / "ml-10m"
    films.mkdir(parents=True)
    (films / "movies.dat").write_text("".join(f"{film}::Film {film} (1990)::Drama\n" for film in range(20)))
    ratings = (f"{user}::{(user + step) % 20}::4::{1000 + step}\n" for user in range(20) for step in range(6))
    (films / "ratings.dat").write_text("".join(ratings))
    shutil.copytree(world.parent, user)
    printed = {command: call("-m", *shlex.split(command)) for command in commands(PAGE)}
    assert len(printed) == 6, printed
    [figures] = [text for command, text in printed.items() if "baselines" in command]
    assert "recent-popularity" in figures
    call("-m", "llmrec", "export", "runs/recipe", "shared")
    [block] = blocks(PAGE, "python")
    assert call("-c", block).count("'i") == 5
    members = call(
        "-m", "pytest", "-q", "-n", "0", "-k", "RecentPopularity", "tests/collaborative/test_members.py", cwd=copy
    )
    assert re.search(r"\d+ passed", members)
