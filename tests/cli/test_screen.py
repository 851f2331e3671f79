"""What a command shows while it works, where standard error is no terminal, and its table of figures."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_the_table_tells_users_from_their_cases(tiny_run: Path) -> None:
    metrics = json.loads((tiny_run / "evaluate-test" / "metrics.json").read_text())
    one = screen.metrics_table(metrics)
    assert "60 test users" in str(one.title) and "intervals over users" in str(one.caption)
    metrics["protocol"] |= {"users": 7, "cases": 90}
    several = screen.metrics_table(metrics)
    assert "90 cases of 7 test users" in str(several.title) and "intervals over cases" in str(several.caption)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.25, ".250"), (-0.25, "-.250"), (10.532, "10.532"), (-10.5, "-10.500"), (0.0, ".000"), (1, "1.000")],
)
def test_figures_of_ten_and_more_keep_their_zeros(value: float, shown: str) -> None:
    found = {"cases": 1, "candidates": "a", "systems": {"model": {"x": {"mean": value, "low": value, "high": value}}}}
    (cell,) = [column for column in screen.choice_table("t", found).columns if column.header == "X"]
    assert next(iter(cell.cells)) == f"{shown}\n{shown} to {shown}"
