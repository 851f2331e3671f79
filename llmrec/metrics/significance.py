"""Bootstrap intervals of means over users, paired differences, and a permutation test.

Metrics per user have few distinct values (a hit is 0 or 1), and a resampled mean depends only on how often each value
is drawn. One resample is therefore one multinomial draw over the distinct values instead of one choice per user: the
same distribution, much faster, and independent of the order of users.

Source: Efron and Tibshirani 1993, chapters 13 (percentile interval) and 15 (permutation test).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

CELLS = 4_000_000  # random counts in memory: 32 MB
TAIL = (1 - 0.95) / 2  # probability on each side of an interval


@dataclass(frozen=True)
class Interval:
    """A mean over users and its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Mean of `a - b` over users, its 95 % interval, and its p-value if a and b were equal."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap(values: np.ndarray, seed: int, draws: int = 2000) -> Interval:
    """Percentile bootstrap of the mean over users.

    Args:
        values: (users,) one finite value per user.
        seed: the same seed and values give the same interval.
        draws: number of resamples.

    Raises:
        ValueError: no user, or a value that is not finite.
    """
    values = _checked(values)
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    shares = counts / len(values)
    means = [rng.multinomial(len(values), shares, size) @ distinct for size in _sizes(draws, len(distinct))]
    low, high = np.quantile(np.concatenate(means) / len(values), [TAIL, 1 - TAIL])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_of(statistic: Callable[[np.ndarray], float], rows: int, seed: int, draws: int = 2000) -> Interval:
    """Percentile bootstrap of a statistic that is not a mean over rows, such as AUC.

    Args:
        statistic: (n,) row numbers → its value on these rows; NaN if undefined, which is ignored.
        rows: number of rows; the statistic must be defined on all of them.
        seed, draws: as in `bootstrap`.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(rows, size=rows)) for _ in range(draws)]
    low, high = np.nanquantile(values, [TAIL, 1 - TAIL])
    return Interval(float(statistic(np.arange(rows))), float(low), float(high))


def paired(a: np.ndarray, b: np.ndarray, seed: int, draws: int = 2000) -> Difference:
    """Compare two systems on the same users: mean of `a - b`, its interval, and a two-sided sign-flip p-value.

    Args:
        a: (users,) values of one system.
        b: (users,) values of the other, for the same users in the same order.
        seed: the same seed and values give the same result.
        draws: number of resamples, and of sign flips; p is at least 1 / (draws + 1).

    Raises:
        ValueError: a and b differ in length, there is no user, or a value is not finite.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"Paired figures need the same users on both sides; got {np.shape(a)} and {np.shape(b)}.")
    difference = _checked(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    interval = bootstrap(difference, seed, draws)
    return Difference(interval.mean, interval.low, interval.high, _sign_flip(difference, seed, draws))


def _sign_flip(difference: np.ndarray, seed: int, draws: int) -> float:
    """Two-sided p-value of the mean difference under random sign flips per user."""
    sizes, counts = np.unique(np.abs(difference), return_counts=True)
    rng = np.random.default_rng([seed, 1])
    observed = abs(difference.sum())
    # Flips that equal the observed sum count; rounding must not lose them.
    slack = 1e-9 * max(1.0, observed)
    extreme = 0
    for size in _sizes(draws, len(sizes)):
        plus = rng.binomial(counts, 0.5, (size, len(sizes)))
        extreme += int((np.abs((2 * plus - counts) @ sizes) >= observed - slack).sum())
    return (extreme + 1) / (draws + 1)


def _sizes(draws: int, width: int) -> Iterator[int]:
    """Split the draws so that no block of (size, width) counts is larger than CELLS."""
    step = max(1, CELLS // width)
    return (min(step, draws - start) for start in range(0, draws, step))


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"Need one finite figure per user, (users,), of at least one user; got shape {values.shape}.")
    return values
