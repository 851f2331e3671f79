"""The log of a training: log.jsonl, and trackers (TensorBoard, W&B, trackio, MLflow) in a folder of the run.

Nothing leaves the machine unless its owner says so in the tracker's own variable: W&B is offline without WANDB_MODE,
MLflow writes to a file without MLFLOW_TRACKING_URI, trackio keeps to its folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from llmrec import resources
from llmrec.checked import read_lines
from llmrec.errors import ModelError

LOG = "log.jsonl"


def _with_its_step(line: dict[str, int | float]) -> dict[str, int | float]:
    if "step" not in line:
        raise ValueError("a line needs the key 'step'")
    return line


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a training's log.jsonl, each with at least `step`; without a last line that was torn by a kill.

    Raises:
        RunError: another line is damaged.
    """
    return read_lines(path, Annotated[dict[str, int | float], AfterValidator(_with_its_step)])


def chosen_trackers(names: Sequence[str] | None) -> list[str]:
    """The trackers to write to: those named, or TensorBoard where it is installed.

    Raises:
        ModelError: one that is named is not installed.
    """
    if names is None:
        return ["tensorboard"] if resources.is_installed("tensorboard") else []
    absent = [name for name in names if not resources.is_installed(name)]
    if absent:
        raise ModelError(
            f"launch.report_to names {', '.join(absent)}, not installed here. Type: pip install {' '.join(absent)} "
            "(or leave it out: log.jsonl and the report hold the curves anyway)"
        )
    return list(dict.fromkeys(names))


@contextlib.contextmanager
def trackers_in(folder: Path) -> Iterator[None]:
    """Point trackers to a folder, unless their own variables point elsewhere already."""
    folder.mkdir(parents=True, exist_ok=True)
    place = str(folder.resolve())
    wanted = {
        "TENSORBOARD_LOGGING_DIR": place,
        "WANDB_DIR": place,
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "llmrec",
        "TRACKIO_DIR": f"{place}/trackio",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "llmrec",
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
