"""Two runs side by side, paired over the same cases; runs that were not judged alike are refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.errors import RunError
from llmrec.evaluate.files import read_cases, read_metrics
from llmrec.metrics.significance import bootstrap, paired

ALIKE = {
    "split": "the split",
    "target": "the part that is predicted",
    "tie-break": "how events of one moment are ordered",
    "candidates": "the candidates",
    "items": "the size of the catalogue",
    "ties": "how tied scores count",
    "beams": "the beam width",
    "wording": "the wording of prompts",
    "exclude_seen": "whether items of the history may be recommended",
}
"""What of a protocol must agree before two figures may stand side by side."""


@dataclass(frozen=True)
class Judged:
    """An evaluation that was read.

    Attributes:
        name: what to call the run.
        metrics: metrics.json.
        cases: (cases,) what was asked: user and held-out item, as `user|item`, and which of the user's cases.
        values: metric → (cases,) figures of the run's model.
    """

    name: str
    metrics: dict[str, Any]
    cases: np.ndarray
    values: dict[str, np.ndarray]


def read(folder: Path, name: str) -> Judged:
    """Read an evaluation.

    Args:
        folder: of the evaluation.
        name: what to call the run.

    Raises:
        RunError: it is missing or damaged, or it was made before cases were written down.
    """
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

    Args:
        first, second: judged on the same cases, in any order.

    Raises:
        RunError: the two were not judged alike; says in what they differ.
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
