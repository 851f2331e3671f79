"""Read and validate the files of an evaluation, and compare two runs by paired differences over the same cases."""

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
_OPEN = ConfigDict(extra="allow")  # further keys are only displayed
_Number = Annotated[float, Field(allow_inf_nan=False)]


class Mean(TypedDict):
    """A mean with its interval, and with its p-value if it is a paired difference."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    mean: _Number
    low: _Number
    high: _Number
    p: NotRequired[_Number]


class RankingProtocol(TypedDict):
    """Settings of an evaluation that readers need."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    target: str
    candidates: str
    items: int
    users: int
    exclude_seen: bool
    beams: int


class _HeldOutTemplate(TypedDict):
    """Metrics with the held-out template, and their difference to the trained template."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    figures: Annotated[dict[str, Mean], Field(min_length=1)]
    difference: dict[str, Mean]


class MetricsFile(TypedDict):
    """metrics.json: protocol, means of each system, and paired differences to the model."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: RankingProtocol
    model: str
    systems: dict[str, Annotated[dict[str, Mean], Field(min_length=1)]]
    paired: NotRequired[dict[str, dict[str, Mean]]]
    held_out_template: NotRequired[_HeldOutTemplate]


class ExampleUser(TypedDict):
    """One user of examples.json: titles of the history, the recommendations, and the held-out item."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    user_id: str
    history: list[str | None]
    recommended: list[str | None]
    held_out: str | None
    held_out_rank: NotRequired[int | None]


class _GenerationTask(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    systems: NotRequired[Annotated[dict[str, dict[str, _Number]], Field(min_length=1)]]


class GenerationFile(TypedDict):
    """writing.json: metrics of generated text, by task and system."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: dict[str, Any]
    tasks: dict[str, _GenerationTask]


class _ChoiceTask(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    candidates: str
    systems: NotRequired[Annotated[dict[str, Annotated[dict[str, Mean], Field(min_length=1)]], Field(min_length=1)]]


class ChoicesFile(TypedDict):
    """choices.json: metrics of tasks with few possible answers, by task and system, never over the whole catalogue."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: dict[str, Any]
    tasks: dict[str, _ChoiceTask]


def read_choices(folder: Path) -> dict[str, Any] | None:
    """Read choices.json of an evaluation; None if the model has no task with few possible answers."""
    path = folder / CHOICES
    return dict(read_checked(path, ChoicesFile)) if path.exists() else None


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Read metrics.json and, under `choices`, choices.json of an evaluation, each if it exists."""
    choices = read_choices(folder)
    if choices is None:
        return read_metrics(folder)
    return (read_metrics(folder) if (folder / METRICS).exists() else {}) | {"choices": choices}


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json of an evaluation; a RunError if it is missing or damaged, or the model does not recommend."""
    if not (folder / METRICS).exists() and (folder / CHOICES).exists():
        raise RunError(
            f"{folder} has no figures over the whole catalogue: its model was trained to judge candidates, not to "
            f"recommend. Its figures are in {CHOICES}."
        )
    value: dict[str, Any] = read_checked(folder / METRICS, Annotated[MetricsFile, AfterValidator(_with_its_model)])
    return value


def read_cases(path: Path) -> pa.Table:
    """Read per_user.parquet: user_id, target, and one column `SYSTEM METRIC` for each system and metric."""
    table = read_table(path, {"user_id": pa.string()})
    if "target" not in table.column_names:
        raise RunError(f"{path} does not say what was held out: it is of an older version. Evaluate the run again.")
    for name in set(table.column_names) - {"user_id", "target"}:
        column = table[name]
        numbers = pa.types.is_floating(column.type) and not column.null_count and np.isfinite(column.to_numpy()).all()
        if not numbers or " " not in name:
            raise RunError(f"{path}: the column '{name}' must be SYSTEM METRIC and hold numbers alone. {REMEDY}")
    return table


def _with_its_model(metrics: MetricsFile) -> MetricsFile:
    if metrics["model"] not in metrics["systems"]:
        raise ValueError(f"the model {metrics['model']!r} is not among the systems")
    return metrics


COMPARABLE = {
    "split": "the split",
    "target": "the part that is predicted",
    "tie-break": "the order of events at the same time",
    "candidates": "the candidates",
    "items": "the size of the catalogue",
    "ties": "the treatment of tied scores",
    "beams": "the beam width",
    "template": "the prompt template",
    "exclude_seen": "whether items of the history may be recommended",
}
"""Protocol entries that must be equal for two runs to be comparable."""


@dataclass(frozen=True)
class EvaluatedRun:
    """Metrics of an evaluated run.

    Attributes:
        metrics: content of metrics.json.
        cases: (cases,) id of each case, `user|item|n`; n counts repetitions of the pair.
        values: metric → (cases,) values of the run's model.
    """

    name: str
    metrics: dict[str, Any]
    cases: np.ndarray
    values: dict[str, np.ndarray]


def read_run(folder: Path, name: str) -> EvaluatedRun:
    """Read the metrics per case in an evaluation's folder; a RunError if they are missing, damaged or too old."""
    metrics, table = read_metrics(folder), read_cases(folder / "per_user.parquet")
    cases = _case_ids(table["user_id"].to_pylist(), table["target"].to_pylist())
    columns = {metric: f"{metrics['model']} {metric}" for metric in metrics["systems"][metrics["model"]]}
    missing = set(columns.values()) - set(table.column_names)
    if missing or not len(cases):
        what = f"column '{min(missing)}'" if missing else "cases"
        raise RunError(f"{folder / 'per_user.parquet'} has no {what}. Evaluate the run again.")
    values = {metric: table[name].to_numpy() for metric, name in columns.items()}
    return EvaluatedRun(name, metrics, cases, values)


def compare(first: EvaluatedRun, second: EvaluatedRun) -> dict[str, Any]:
    """Metric → mean and interval of both runs, and their paired difference (first minus second) with its p-value.

    A RunError lists the differences if the runs were not evaluated with the same protocol on the same cases.
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


def _differences(first: EvaluatedRun, second: EvaluatedRun) -> list[str]:
    """Descriptions of what differs between the protocols and cases."""
    mine, theirs = first.metrics["protocol"], second.metrics["protocol"]
    differences = [
        f"{words}: {mine.get(key)} and {theirs.get(key)}"
        for key, words in COMPARABLE.items()
        if mine.get(key) != theirs.get(key)
    ]
    both = np.intersect1d(first.cases, second.cases)
    if len(both) < max(len(first.cases), len(second.cases)):
        sizes = f"{len(first.cases)} and {len(second.cases)} cases, of which {len(both)} are the same"
        differences.append(f"the held-out cases: {sizes}")
    return differences


def _case_ids(users: list[str], targets: list[str]) -> np.ndarray:
    """Unique id of each case, `user|item|n`: a user may have several cases with the same item."""
    seen: dict[str, int] = {}
    ids = []
    for user, target in zip(users, targets, strict=True):
        name = f"{user}|{target}"
        seen[name] = seen.get(name, 0) + 1
        ids.append(f"{name}|{seen[name]}")
    return np.array(ids)
