"""A whole export to damage; a hang is a failure, and whatever is asked on the terminal is answered yes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrec.export import export


class Hang(BaseException):
    """Something takes too long; no handler of exceptions catches it."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A hang is a failure, and does not stall the tests."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def whole(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_run, tmp_path_factory.mktemp("exports") / "whole")


@pytest.fixture(scope="session")
def whole_ensemble(mixed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(mixed_run, tmp_path_factory.mktemp("exports") / "whole-ensemble")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on the terminal; the answer is yes to everything."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": questions.append(question) or "y")
    return questions
