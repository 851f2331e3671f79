"""The files of an evaluation, checked as they are read, and two runs compared, paired over the same cases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import REMEDY, read_checked, read_table
from llmrec.errors import RunError
from llmrec.metrics.significance import bootstrap, paired

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


class _HeldOutTemplate(TypedDict):
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
    held_out_template: NotRequired[_HeldOutTemplate]


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
    """choices.json of an evaluation; None where the model has no task with few possible answers."""
    path = folder / CHOICES
    return dict(read_checked(path, Choices)) if path.exists() else None


def read_judged(folder: Path) -> dict[str, Any]:
    """What a model was judged by: metrics.json, and under `choices` choices.json, each where there is one."""
    choices = read_choices(folder)
    if choices is None:
        return read_metrics(folder)
    return (read_metrics(folder) if (folder / METRICS).exists() else {}) | {"choices": choices}


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of an evaluation; a RunError where it is missing or damaged, or the model does not recommend."""
    if not (folder / METRICS).exists() and (folder / CHOICES).exists():
        raise RunError(
            f"{folder} has no figures over the whole catalogue: its model was trained to judge candidates, not to "
            f"recommend. Its figures are in {CHOICES}."
        )
    value: dict[str, Any] = read_checked(folder / METRICS, Annotated[Metrics, AfterValidator(_with_its_model)])
    return value


def read_cases(path: Path) -> pa.Table:
    """per_user.parquet of an evaluation: user_id, target, and a column of figures for each system and metric."""
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


ALIKE = {
    "split": "the split",
    "target": "the part that is predicted",
    "tie-break": "how events of one moment are ordered",
    "candidates": "the candidates",
    "items": "the size of the catalogue",
    "ties": "how tied scores count",
    "beams": "the beam width",
    "template": "the prompt template",
    "exclude_seen": "whether items of the history may be recommended",
}
"""What of a protocol must agree before two figures may stand side by side."""


@dataclass(frozen=True)
class Judged:
    """An evaluation that was read.

    Attributes:
        metrics: metrics.json.
        cases: (cases,) user and held-out item, as `user|item`, and which of the user's cases.
        values: metric → (cases,) figures of the run's model.
    """

    name: str
    metrics: dict[str, Any]
    cases: np.ndarray
    values: dict[str, np.ndarray]


def read(folder: Path, name: str) -> Judged:
    """Read the evaluation in a folder; a RunError where it is missing, damaged or too old to name its cases."""
    metrics, table = read_metrics(folder), read_cases(folder / "per_user.parquet")
    cases = _numbered(table["user_id"].to_pylist(), table["target"].to_pylist())
    columns = {metric: f"{metrics['model']} {metric}" for metric in metrics["systems"][metrics["model"]]}
    missing = set(columns.values()) - set(table.column_names)
    if missing or not len(cases):
        what = f"column '{min(missing)}'" if missing else "cases"
        raise RunError(f"{folder / 'per_user.parquet'} has no {what}. Evaluate the run again.")
    values = {metric: table[name].to_numpy() for metric, name in columns.items()}
    return Judged(name, metrics, cases, values)


def compare(first: Judged, second: Judged) -> dict[str, Any]:
    """Metric → means with intervals of both, and the paired difference, first minus second, with its p-value.

    A RunError says in what they differ where the two were not judged alike, on the same cases.
    """
    differences = _differences(first, second)
    if differences:
        raise RunError(
            f"{first.name} and {second.name} cannot be compared: they differ in\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\nEvaluate both the same way: set the same values in their recipes and run them again."
        )
    order, other = np.argsort(first.cases), np.argsort(second.cases)
    shared = [metric for metric in first.values if metric in second.values]
    if not shared:
        raise RunError(f"{first.name} and {second.name} share no metric. Name the same ones in evaluate.ranking.")
    pairs = {metric: (first.values[metric][order], second.values[metric][other]) for metric in shared}
    return {
        metric: {
            "first": asdict(bootstrap(a, seed=0)),
            "second": asdict(bootstrap(b, seed=0)),
            "difference": asdict(paired(a, b, seed=0)),
        }
        for metric, (a, b) in pairs.items()
    }


def _differences(first: Judged, second: Judged) -> list[str]:
    """In words, what of the two protocols disagrees."""
    mine, theirs = first.metrics["protocol"], second.metrics["protocol"]
    found = [
        f"{words}: {mine.get(key)} and {theirs.get(key)}"
        for key, words in ALIKE.items()
        if mine.get(key) != theirs.get(key)
    ]
    both = np.intersect1d(first.cases, second.cases)
    if len(both) < max(len(first.cases), len(second.cases)):
        sizes = f"{len(first.cases)} and {len(second.cases)} cases, of which {len(both)} are the same"
        found.append(f"what was held out: {sizes}")
    return found


def _numbered(users: list[str], targets: list[str]) -> np.ndarray:
    """A name for each case; a user who meets an item again has a second case of that name, so they are counted."""
    met: dict[str, int] = {}
    names = []
    for user, target in zip(users, targets, strict=True):
        name = f"{user}|{target}"
        met[name] = met.get(name, 0) + 1
        names.append(f"{name}|{met[name]}")
    return np.array(names)
