"""How near predicted ratings are, and how well scores tell good from bad."""

from __future__ import annotations

import numpy as np


def rmse(predicted: np.ndarray, given: np.ndarray) -> float:
    """Root of the mean squared error, in rating points; both (rows,).

    Raises:
        ValueError: the shapes differ, there are no rows, or a value is not finite.
    """
    return float(np.sqrt(np.mean(_errors(predicted, given) ** 2)))


def mae(predicted: np.ndarray, given: np.ndarray) -> float:
    """Mean absolute error, in rating points; as `rmse`."""
    return float(np.mean(np.abs(_errors(predicted, given))))


def auc(scores: np.ndarray, liked: np.ndarray) -> float:
    """Chance that a liked row scores above one that is not, ties counting half; not a number if all are alike.

    Args:
        scores: (rows,) larger is better.
        liked: (rows,) bool.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    return float(auc_of_users(scores, liked, np.zeros(len(scores), np.int64))[0]) if len(scores) else float("nan")


def auc_of_users(scores: np.ndarray, liked: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(users,) AUC within each user; not a number for users who liked all or nothing. `users` (rows,) from 0.

    Raises:
        ValueError: as `auc`.
    """
    scores, liked = np.asarray(scores, np.float64), np.asarray(liked, bool)
    if scores.shape != liked.shape or not np.isfinite(scores).all():
        raise ValueError("AUC needs one finite score for each label.")
    order = np.lexsort((scores, users))
    people, ordered = users[order], scores[order]
    new = np.r_[True, (np.diff(people) != 0) | (np.diff(ordered) != 0)]
    starts, group = np.flatnonzero(new), np.cumsum(new) - 1
    # Mean place of each run of equal scores within its user, from 1 (Mann and Whitney's statistic with midranks).
    middle = starts + (np.bincount(group) + 1) / 2
    places = middle[group] - np.searchsorted(people, people)
    good, size = np.bincount(users, weights=liked), np.bincount(users)
    above = np.bincount(people, weights=places * liked[order]) - good * (good + 1) / 2
    pairs = good * (size - good)
    return np.divide(above, pairs, out=np.full(len(size), np.nan), where=pairs > 0)


def _errors(predicted: np.ndarray, given: np.ndarray) -> np.ndarray:
    predicted, given = np.asarray(predicted, np.float64), np.asarray(given, np.float64)
    if predicted.shape != given.shape or not len(given) or not np.isfinite(predicted - given).all():
        raise ValueError(
            f"Ratings need one finite prediction each; got {predicted.shape} predictions of {given.shape} ratings. "
            "Leave out, and report, rows whose answer could not be read."
        )
    return predicted - given
