"""What a command shows while it works, where standard error is no terminal."""

from __future__ import annotations

import pytest

from llmrec.cli import screen


def test_a_log_gets_a_line_when_a_stage_begins_and_at_each_tenth_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.stages() as tell:
        for done in (0.0, 0.04, 0.1, 0.11, 0.35, 1.0, 1.0):
            tell("train", done)
            if done == 0.35:
                assert "35%" in capsys.readouterr().err, "while it works, not at its end"
        tell("evaluate", 0.0)
    told = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert told == [["train", "100%", "0:00"], ["evaluate", "0%", "0:00"]]
