"""Training logs: log.jsonl, and trackers (TensorBoard, W&B, trackio, MLflow) that write into a folder of the run.

Nothing is sent over the network unless the tracker's own environment variable says so: W&B is offline without
WANDB_MODE, MLflow writes to a file without MLFLOW_TRACKING_URI, trackio writes to its folder.
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


def _check_step(line: dict[str, int | float]) -> dict[str, int | float]:
    if "step" not in line:
        raise ValueError("a line needs the key 'step'")
    return line


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log.jsonl, each line with at least `step`; an incomplete last line is left out.

    Raises:
        RunError: another line is invalid.
    """
    return read_lines(path, Annotated[dict[str, int | float], AfterValidator(_check_step)])


def chosen_trackers(names: Sequence[str] | None) -> list[str]:
    """Return the trackers to use: those named, or TensorBoard if it is installed.

    Raises:
        ModelError: a named tracker is not installed.
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
    """Let trackers write into a folder, unless their environment variables are set already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder.resolve())
    defaults = {
        "TENSORBOARD_LOGGING_DIR": path,
        "WANDB_DIR": path,
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "llmrec",
        "TRACKIO_DIR": f"{path}/trackio",
        "MLFLOW_TRACKING_URI": f"sqlite:///{path}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "llmrec",
    }
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
