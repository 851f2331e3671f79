"""log.jsonl: the figures of a training, one line for each time that they were taken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from llmrec.checked import read_lines

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a training's log.jsonl, each with at least `step`; without a last line that was torn by a kill.

    Raises:
        RunError: another line is damaged.
    """
    return read_lines(path, Annotated[dict[str, int | float], AfterValidator(_with_its_step)])


def _with_its_step(line: dict[str, int | float]) -> dict[str, int | float]:
    if "step" not in line:
        raise ValueError("a line needs the key 'step'")
    return line
