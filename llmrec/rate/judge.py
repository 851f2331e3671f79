"""How good predicted ratings are: RMSE, MAE and AUC with intervals over users, paired differences, slices by activity.

Every draw of the bootstrap takes users with all their cases, and the same users for every system, so that differences
are paired. A draw is a weight for each user, and so for each case.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrec.metrics import predictions as metrics
from llmrec.seed import stream

METRICS = ("rmse", "mae", "auc")
_BLOCK = 2_000_000  # weights of cases held at once


class Judge:
    """Judges systems on the same cases."""

    def __init__(self, given: np.ndarray, users: np.ndarray, liked: float, seed: int, draws: int = 1000) -> None:
        """Name the truth.

        Args:
            given: (cases,) ratings that users gave.
            users: (cases,) any number of the user.
            liked: from which rating on one counts as liked, for AUC.
            seed: of the draws.
            draws: how often users are drawn anew.
        """
        self.given, self.liked = given, given >= liked
        people, self.of = np.unique(users, return_inverse=True)
        share = np.full(len(people), 1 / len(people))
        self.draws = stream(seed, "rate", "bootstrap").multinomial(len(people), share, draws)

    def figures(self, predicted: np.ndarray) -> dict[str, float]:
        """RMSE and MAE in rating points, AUC 0 to 1 (not a number where all are liked, or none)."""
        auc = metrics.auc(predicted, self.liked)
        return {
            "rmse": metrics.rmse(predicted, self.given),
            "mae": metrics.mae(predicted, self.given),
            "auc": auc,
        }

    def drawn(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Metric → (draws,) its value in every draw."""
        error = predicted - self.given
        count = self.draws @ np.bincount(self.of)
        squares, sizes = (self.draws @ np.bincount(self.of, weights=values) for values in (error**2, np.abs(error)))
        return {"rmse": np.sqrt(squares / count), "mae": sizes / count, "auc": self._auc(predicted)}

    def _auc(self, predicted: np.ndarray) -> np.ndarray:
        """(draws,) AUC under each draw's weights: Mann and Whitney's count over groups of equal scores."""
        order = np.argsort(predicted, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(predicted[order]) != 0])
        good, of = self.liked[order], self.of[order]
        size = max(1, _BLOCK // len(order))
        found = []
        for block in (self.draws[at : at + size] for at in range(0, len(self.draws), size)):
            weights = block[:, of].astype(np.float64)
            liked = np.add.reduceat(weights * good, starts, axis=1)
            other = np.add.reduceat(weights * ~good, starts, axis=1)
            below = np.cumsum(other, axis=1) - other / 2
            pairs = liked.sum(1) * other.sum(1)
            found.append(np.divide((liked * below).sum(1), pairs, out=np.full(len(block), np.nan), where=pairs > 0))
        return np.concatenate(found)

    def table(self, predictions: dict[str, np.ndarray], against: list[str]) -> dict[str, Any]:
        """Every system's figures with 95 % intervals, and how far it is from others.

        Args:
            predictions: system → (cases,) predicted ratings.
            against: systems that the others are compared with.

        Returns:
            system → metric → mean, low, high; and under `minus`, other system → metric → difference, low, high
            (below 0 is better for RMSE and MAE, above 0 for AUC).
        """
        means = {name: self.figures(one) for name, one in predictions.items()}
        drawn = {name: self.drawn(one) for name, one in predictions.items()}
        found: dict[str, Any] = {}
        for name in predictions:
            found[name] = {metric: _interval(means[name][metric], drawn[name][metric]) for metric in METRICS}
            found[name]["minus"] = {
                other: {
                    metric: _interval(
                        means[name][metric] - means[other][metric], drawn[name][metric] - drawn[other][metric]
                    )
                    for metric in METRICS
                }
                for other in against
                if other in predictions and other != name
            }
        return found


def slices(known: np.ndarray) -> dict[str, np.ndarray]:
    """Name → (cases,) bool: thirds of the cases by how many ratings of their user are known.

    Args:
        known: (cases,) that count.
    """
    low, high = (int(cut) for cut in np.quantile(known, [1 / 3, 2 / 3]))
    return {
        f"users with at most {low} known ratings": known <= low,
        f"{low + 1} to {high}": (known > low) & (known <= high),
        f"more than {high}": known > high,
    }


def sliced(judge: Judge, predicted: np.ndarray, known: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Figures of one system in each slice; None where a slice liked all or nothing."""
    found = {}
    for name, chosen in slices(known).items():
        if chosen.any():
            part, truth = predicted[chosen], judge.given[chosen]
            values = (
                metrics.rmse(part, truth),
                metrics.mae(part, truth),
                metrics.auc(part, judge.liked[chosen]),
            )
            cleaned = {metric: _number(value) for metric, value in zip(METRICS, values, strict=True)}
            found[name] = {"cases": int(chosen.sum()), **cleaned}
    return found


def _interval(mean: float, drawn: np.ndarray) -> dict[str, float | None]:
    kept = drawn[np.isfinite(drawn)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
    return {"mean": _number(mean), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
