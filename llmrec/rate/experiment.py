"""A folder with the predictions of many systems for the same cases, and the table that compares them.

OUT/protocol.json          data, split, cases; another protocol needs another folder
OUT/systems/NAME.json      predicted ratings of one system, and their cost; written last
OUT/answers/…  OUT/tuned/… answers and models from which an interrupted command continues
OUT/figures.json           the table of all systems

Intervals are percentiles of a bootstrap: each draw takes users with all their cases, and the same users for every
system, so that differences are paired. A draw is a weight for each user, and so for each case.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import RunError
from llmrec.files import explain_disk, hash_json, read_json, write_json
from llmrec.metrics.predictions import auc, mae, rmse
from llmrec.rate.baselines import BASELINES
from llmrec.rate.cases import RatingCases, sample_cases
from llmrec.rate.ratings import TEST, VALID, Ratings
from llmrec.seed import stream

METRICS = ("rmse", "mae", "auc")
COMPARED_WITH = ["global mean", "user mean", "item mean", "user + item bias"]
_BLOCK = 2_000_000  # weights of cases held at once
_REMEDY = "Delete the file, and type the command again."


class SystemPredictions(TypedDict):
    """What systems/NAME.json holds."""

    system: str
    facts: dict[str, Any]
    predicted: list[float]


@dataclass(frozen=True)
class Experiment:
    """A folder of one protocol.

    Attributes:
        ratings: all of the data.
        cases: to predict.
        out: the folder.
        seed: of cases, examples, training and intervals.
    """

    ratings: Ratings
    cases: RatingCases
    out: Path
    seed: int

    @classmethod
    def open(
        cls, ratings: Ratings, count: int | None, length: int, seed: int, out: Path, part: int = TEST
    ) -> Experiment:
        """Draw the cases; make the folder, or check that it has the same protocol.

        Args:
            count: cases; None for all.
            length: ratings of a history.
            part: whose ratings are predicted: `TEST`, or `VALID`, where learning rates and the like are chosen.

        Raises:
            RunError: the folder was made with another protocol (says how they differ), or holds other files.
            DataError: the part is empty.
        """
        _refuse_other_files(out)
        experiment = cls(ratings, sample_cases(ratings, part, count, length, seed), out, seed)
        path, protocol = out / "protocol.json", experiment.protocol
        if not path.is_file():
            write_json(path, protocol)
            return experiment
        written = read_json(path)
        different = [
            f"{key} {written.get(key)} there, {value} here"
            for key, value in protocol.items()
            if written.get(key) != value
        ]
        if different:
            raise RunError(f"{out} was made with another protocol ({'; '.join(different)}). Choose another --out.")
        return experiment

    @property
    def protocol(self) -> dict[str, Any]:
        """What must be equal for two systems to be compared."""
        validates = (self.ratings.parts[self.cases.events] == VALID).all()
        return {
            **self.ratings.facts,
            "cases": len(self.cases),
            "history": self.cases.history.shape[1],
            "liked from": self.ratings.scale.liked_from,
            "seed": self.seed,
            **({"judged on": "validation ratings"} if validates else {}),
            "hash": hash_json([self.cases.events.tolist(), self.truth.tolist()])[:16],
        }

    @property
    def truth(self) -> np.ndarray:
        """(cases,) true ratings."""
        return self.ratings.values[self.cases.events]

    def save(self, system: str, predicted: np.ndarray, facts: dict[str, Any]) -> None:
        """Write the predictions of a system, (cases,) ratings."""
        write_json(self._path(system), {"system": system, "facts": facts, "predicted": np.round(predicted, 5).tolist()})

    def systems(self) -> dict[str, SystemPredictions]:
        """Predictions by system: baselines first, then by name, where numbers count as numbers.

        Raises:
            RunError: the file of one is damaged.
        """
        systems: dict[str, SystemPredictions] = {}
        for file in (self.out / "systems").glob("*.json"):
            system: SystemPredictions = read_checked(file, SystemPredictions, _REMEDY)
            count = len(system["predicted"])
            if count != len(self.cases):
                raise RunError(f"{file} has {count} predictions for {len(self.cases)} cases. {_REMEDY}")
            systems[system["system"]] = system
        baselines = [name for name in BASELINES if name in systems]
        return {name: systems[name] for name in [*baselines, *sorted(systems.keys() - BASELINES.keys(), key=_rank)]}

    def run_baselines(self, progress: Callable[[str, float], None]) -> None:
        """Fit and save every baseline that has no predictions yet."""
        for number, (name, fit) in enumerate(BASELINES.items()):
            if not self._path(name).is_file():
                start = time.perf_counter()
                model = fit(self.ratings, self.seed)
                fitted = time.perf_counter()
                predicted = model.predict(self.cases)
                each = (time.perf_counter() - fitted) / len(self.cases)
                self.save(name, predicted, {"seconds to fit": round(fitted - start, 5), "seconds each": round(each, 5)})
            progress("baselines", (number + 1) / len(BASELINES))

    def write_table(self) -> dict[str, Any]:
        """Compare all systems; the table is also written to `figures.json`."""
        systems, liked_from, events = self.systems(), self.ratings.scale.liked_from, self.cases.events
        predictions = {name: np.array(system["predicted"]) for name, system in systems.items()}
        evaluator = RatingEvaluator(self.truth, self.ratings.users[events], liked_from, self.seed)
        table, slices = evaluator.compare(predictions, COMPARED_WITH), slices_by_activity(self.cases.known.lengths)
        for name, predicted in predictions.items():
            of_slices = table[name]["slices"] = {}
            for label, mask in slices.items():
                if mask.any():
                    metrics = rating_metrics(predicted[mask], self.truth[mask], liked_from)
                    of_slices[label] = {"cases": int(mask.sum())} | {key: _rounded(metrics[key]) for key in METRICS}
            table[name]["facts"] = systems[name]["facts"]
        figures = {"protocol": self.protocol, "systems": table}
        write_json(self.out / "figures.json", figures)
        return figures

    def _path(self, system: str) -> Path:
        return self.out / "systems" / f"{slug(system)}.json"


def _refuse_other_files(out: Path) -> None:
    """Refuse a folder that holds files and is no experiment: they could have the names of its files."""
    with explain_disk(out):
        if os.path.lexists(out) and not out.is_dir():
            raise RunError(f"{out} is no folder. Name another with --out DIR.")
        protocol = read_json(out / "protocol.json") if (out / "protocol.json").is_file() else None
        ours = isinstance(protocol, dict) and protocol.keys() >= {"cases", "hash"}
        if out.is_dir() and any(out.iterdir()) and not ours:
            raise RunError(
                f"{out} holds other files and no experiment of `llmrec rate`. Name another folder with --out DIR."
            )


def _rank(name: str) -> list[str | int]:
    """Sort key of a system: prompted before trained, 5 % before 20 %."""
    parts = re.split(r"(\d+)", name.replace("zero-shot", "0-shot").replace(",", " "))
    return [int(part) if part.isdigit() else part for part in parts]


def slug(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def rating_metrics(predicted: np.ndarray, truth: np.ndarray, liked_from: float) -> dict[str, float]:
    """RMSE and MAE in rating points, AUC 0 to 1 (NaN where all are liked, or none); arguments are (cases,)."""
    return {"rmse": rmse(predicted, truth), "mae": mae(predicted, truth), "auc": auc(predicted, truth >= liked_from)}


class RatingEvaluator:
    """Compares systems on the same cases, with bootstrap intervals over users.

    Attributes:
        draws: (draws, users) int64 how often each draw takes each user.
        user_index: (cases,) int64 column of the case's user in `draws`.
    """

    def __init__(self, truth: np.ndarray, users: np.ndarray, liked_from: float, seed: int, draws: int = 1000) -> None:
        """Draw the users.

        Args:
            truth: (cases,) true ratings.
            users: (cases,) user of each case.
            liked_from: the lowest rating that counts as liked, for AUC.
        """
        self.truth, self.liked_from = truth, liked_from
        distinct, self.user_index = np.unique(users, return_inverse=True)
        share = np.full(len(distinct), 1 / len(distinct))
        self.draws = stream(seed, "rate", "bootstrap").multinomial(len(distinct), share, draws)

    def bootstrap(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Metric → (draws,) its value in every draw."""
        error = predicted - self.truth
        count = self.draws @ np.bincount(self.user_index)
        squares, sizes = (
            self.draws @ np.bincount(self.user_index, weights=values) for values in (error**2, np.abs(error))
        )
        return {"rmse": np.sqrt(squares / count), "mae": sizes / count, "auc": self._auc(predicted)}

    def _auc(self, predicted: np.ndarray) -> np.ndarray:
        """(draws,) AUC with each draw's weights: Mann and Whitney's count over groups of equal scores."""
        order = np.argsort(predicted, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(predicted[order]) != 0])
        liked, users = self.truth[order] >= self.liked_from, self.user_index[order]
        size = max(1, _BLOCK // len(order))
        values = []
        for block in (self.draws[start : start + size] for start in range(0, len(self.draws), size)):
            weights = block[:, users].astype(np.float64)
            positive = np.add.reduceat(weights * liked, starts, axis=1)
            negative = np.add.reduceat(weights * ~liked, starts, axis=1)
            below = np.cumsum(negative, axis=1) - negative / 2
            pairs = positive.sum(1) * negative.sum(1)
            values.append(np.divide((positive * below).sum(1), pairs, out=np.full(len(block), np.nan), where=pairs > 0))
        return np.concatenate(values)

    def compare(self, predictions: dict[str, np.ndarray], against: list[str]) -> dict[str, Any]:
        """Metrics of every system with 95 % intervals, and paired differences.

        Args:
            predictions: system → (cases,) predicted ratings.
            against: systems that the others are compared with.

        Returns:
            system → metric → mean, low, high; and under `minus`, other system → metric → difference, low, high
            (below 0 is better for RMSE and MAE, above 0 for AUC).
        """
        means = {name: rating_metrics(values, self.truth, self.liked_from) for name, values in predictions.items()}
        draws = {name: self.bootstrap(values) for name, values in predictions.items()}
        table: dict[str, Any] = {}
        for name in predictions:
            table[name] = {metric: _interval(means[name][metric], draws[name][metric]) for metric in METRICS}
            table[name]["minus"] = {
                other: {
                    metric: _interval(
                        means[name][metric] - means[other][metric], draws[name][metric] - draws[other][metric]
                    )
                    for metric in METRICS
                }
                for other in against
                if other in predictions and other != name
            }
        return table


def slices_by_activity(known: np.ndarray) -> dict[str, np.ndarray]:
    """Name → (cases,) bool: thirds of the cases by (cases,) number of known ratings of their user."""
    low, high = (int(cut) for cut in np.quantile(known, [1 / 3, 2 / 3]))
    return {
        f"users with at most {low} known ratings": known <= low,
        f"{low + 1} to {high}": (known > low) & (known <= high),
        f"more than {high}": known > high,
    }


def _interval(mean: float, draws: np.ndarray) -> dict[str, float | None]:
    finite = draws[np.isfinite(draws)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return {"mean": _rounded(mean), "low": _rounded(low), "high": _rounded(high)}


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
