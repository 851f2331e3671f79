"""`llmrec rate` as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rate_world import write_ratings
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.errors import LlmrecError


def rate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmrec.cli.main", "rate", "--data", "log/recipe.yaml", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_systems_of_one_protocol_gather_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ratings(tmp_path / "log")
    shape = ["--cases", "30", "--history", "4", "--tiny", "--json"]
    first = rate(tmp_path, *shape, "--method", "few-shot", "--shots", "2", "--sensitivity", "4")
    assert first.returncode == 0, first.stderr
    monkeypatch.chdir(tmp_path)
    rest = ["rate", "--data", "log/recipe.yaml", *shape, "--method", "regression", "--share", "0.2", "--epochs", "1"]
    second = CliRunner().invoke(app, rest, catch_exceptions=False)
    found = json.loads(second.stdout)
    assert list(found["systems"]) == [
        "global mean", "user mean", "item mean", "user + item bias", "matrix factorisation", "small transformer",
        "smollm2-135m-instruct (tiny) 2-shot, expected", "smollm2-135m-instruct (tiny) 2-shot, parsed",
        "smollm2-135m-instruct (tiny) regression, 20 %",
    ]  # fmt: skip
    assert found == json.loads((tmp_path / "runs" / "rate-recipe-random" / "figures.json").read_text())
    assert found["protocol"]["cases"] == 30
    other = CliRunner().invoke(app, [*rest, "--history", "5"])
    assert isinstance(other.exception, LlmrecError)
    assert "another protocol (history 4 there, 5 here" in str(other.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "guess"], "--method is zero-shot, few-shot"),
        (["--split", "last"], "--split is random or temporal, not 'last'"),
        (["--part", "train"], "--part is test or valid, not 'train'"),
        (["--over", "item"], "--over is mean or bias, not 'item'"),
        (["--over", "bias"], "what regression adds to; zero-shot has no use for it"),
        (["--scale", "1:4"], "not on the scale of 1 (worst) to 4 (best)"),
        (["--data", "ml-100"], "Did you mean 'ml-100k'?"),
        (["--method", "regression", "--layers", "9"], "the model has 2 layers, so 9 cannot be trained"),
        (["--url", "http://127.0.0.1:9/v1", "--tries", "1"], "answers so far are kept, and the same command goes on"),
    ],
)
def test_what_is_mistyped_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """In this process; that such an error ends in its message and exit code 2 is `main`'s."""
    write_ratings(tmp_path / "log")
    monkeypatch.chdir(tmp_path)
    given = ["rate", "--data", "log/recipe.yaml", "--tiny", "--history", "3", "--cases", "8", *arguments]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, LlmrecError)
    assert words in str(done.exception)
