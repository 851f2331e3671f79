"""The files of an evaluation: what each must hold, so that readers find it checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import REMEDY, read_checked, read_table
from llmrec.errors import RunError

METRICS, CHOICES = "metrics.json", "choices.json"
_OPEN = ConfigDict(extra="allow")  # further keys are shown to people at most
_Number = Annotated[float, Field(allow_inf_nan=False)]


class Mean(TypedDict):
    """A mean with its interval, and a p-value where it is of a paired difference."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    mean: _Number
    low: _Number
    high: _Number
    p: NotRequired[_Number]


class Protocol(TypedDict):
    """How an evaluation was made, as far as readers need it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    target: str
    candidates: str
    items: int
    users: int
    exclude_seen: bool
    beams: int


class _HeldOutWording(TypedDict):
    """Figures with a prompt that training never saw, and these less those with the trained prompt."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    figures: Annotated[dict[str, Mean], Field(min_length=1)]
    difference: dict[str, Mean]


class Metrics(TypedDict):
    """metrics.json of an evaluation: how it was made, means of each system, and paired differences to the model."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: Protocol
    model: str
    systems: dict[str, Annotated[dict[str, Mean], Field(min_length=1)]]
    paired: NotRequired[dict[str, dict[str, Mean]]]
    held_out_wording: NotRequired[_HeldOutWording]


class Example(TypedDict):
    """One user of examples.json: titles of the history, of what was recommended, and of the held-out item."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    user_id: str
    history: list[str | None]
    recommended: list[str | None]
    held_out: str | None
    held_out_rank: NotRequired[int | None]


class _Written(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    systems: NotRequired[Annotated[dict[str, dict[str, _Number]], Field(min_length=1)]]


class Writing(TypedDict):
    """writing.json: figures of what the model wrote, by task and system."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: dict[str, Any]
    tasks: dict[str, _Written]


class _Chosen(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    candidates: str
    systems: NotRequired[Annotated[dict[str, Annotated[dict[str, Mean], Field(min_length=1)]], Field(min_length=1)]]


class Choices(TypedDict):
    """choices.json: figures of tasks with few possible answers, by task and system, none over the whole catalogue."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: dict[str, Any]
    tasks: dict[str, _Chosen]


def read_choices(folder: Path) -> dict[str, Any] | None:
    """choices.json of a folder with an evaluation; None where the model has no task with few possible answers.

    Raises:
        RunError: it is damaged.
    """
    path = folder / CHOICES
    return dict(read_checked(path, Choices)) if path.exists() else None


def read_judged(folder: Path) -> dict[str, Any]:
    """What a model was judged by: metrics.json, and under `choices` what choices.json holds, each where there is one.

    Raises:
        RunError: one is damaged, or there is neither.
    """
    choices = read_choices(folder)
    if choices is None:
        return read_metrics(folder)
    return (read_metrics(folder) if (folder / METRICS).exists() else {}) | {"choices": choices}


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a folder with an evaluation.

    Raises:
        RunError: it is missing or damaged, or the model was not trained to recommend.
    """
    if not (folder / METRICS).exists() and (folder / CHOICES).exists():
        raise RunError(
            f"{folder} has no figures over the whole catalogue: its model was trained to judge candidates, not to "
            f"recommend. Its figures are in {CHOICES}."
        )
    value: dict[str, Any] = read_checked(folder / METRICS, Annotated[Metrics, AfterValidator(_with_its_model)])
    return value


def read_cases(path: Path) -> pa.Table:
    """per_user.parquet of an evaluation: user_id, target, and a column of figures for each system and metric.

    Raises:
        RunError: it is missing or damaged, or of a version that did not write down what was held out.
    """
    table = read_table(path, {"user_id": pa.string()})
    if "target" not in table.column_names:
        raise RunError(f"{path} does not say what was held out: it is of an older version. Evaluate the run again.")
    for name in set(table.column_names) - {"user_id", "target"}:
        column = table[name]
        numbers = pa.types.is_floating(column.type) and not column.null_count and np.isfinite(column.to_numpy()).all()
        if not numbers or " " not in name:
            raise RunError(f"{path}: the column '{name}' must be SYSTEM METRIC and hold numbers alone. {REMEDY}")
    return table


def _with_its_model(metrics: Metrics) -> Metrics:
    if metrics["model"] not in metrics["systems"]:
        raise ValueError(f"the model {metrics['model']!r} is not among the systems")
    return metrics
