"""Rank of the held-out item, and metrics of it: one figure per case, ties in expectation; and slices of the cases.

A target that ties with t other items stands on each of t + 1 places with equal chance. Every metric here is its exact
mean over those places, so no order of items in memory can help or harm a model.

Source: McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of
tied scores", ECIR; one relevant item a user, so the ideal DCG is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.contracts import Sequences

HEAD = 0.8  # the head of a catalogue is its most popular items that together have this share of the training events
BEYOND = 2**40
"""The `higher` of a target that was not recommended at all: worse than every place of any catalogue."""


@dataclass(frozen=True)
class Places:
    """Where each row's target landed.

    Attributes:
        higher: (rows,) int64, items that score strictly better than the target; `BEYOND` where it cannot be reached.
        tied: (rows,) int64, other items that score exactly as the target.
    """

    higher: np.ndarray
    tied: np.ndarray


def place(scores: np.ndarray, targets: np.ndarray, exclude: Sequences | None = None) -> Places:
    """Place each row's target among all items by score.

    Args:
        scores: (rows, items), larger is better, minus infinity allowed; left as it is.
        targets: (rows,) integers.
        exclude: items that may not be recommended, row by row (usually the history). A target that is itself excluded
            is placed `BEYOND`, since no recommender could have shown it.

    Raises:
        ValueError: the shapes disagree, or a score is not a number (it would pass for a perfect rank).
    """
    rows, items = scores.shape
    if len(targets) != rows or (exclude is not None and len(exclude) != rows):
        raise ValueError(f"{rows} rows of scores need as many targets and exclusions; got {len(targets)} targets.")
    if np.isnan(scores).any():
        raise ValueError("Scores hold NaN, which ranks nowhere. Look for a diverged model or an empty reduction.")
    own = scores[np.arange(rows), targets]
    higher = (scores > own[:, None]).sum(axis=1)
    tied = (scores == own[:, None]).sum(axis=1) - 1
    if exclude is None:
        return Places(higher, tied)
    pairs = np.unique(exclude.rows * items + exclude.items)
    row, item = pairs // items, pairs % items
    shut_out = np.zeros(rows, dtype=bool)
    shut_out[row[item == targets[row]]] = True
    left_out = scores[row, item]
    higher -= np.bincount(row[left_out > own[row]], minlength=rows)
    tied -= np.bincount(row[left_out == own[row]], minlength=rows)
    return Places(np.where(shut_out, BEYOND, higher), np.where(shut_out, 0, tied))


def place_in_list(items: np.ndarray, targets: np.ndarray) -> Places:
    """Place each row's target in a list of recommendations, `BEYOND` where it is missing; nothing ties.

    Args:
        items: (rows, k) integers, best first; -1 where a list is shorter.
        targets: (rows,) integers, at least 0.

    Raises:
        ValueError: there are not as many targets as lists.
    """
    if len(items) != len(targets):
        raise ValueError(f"{len(items)} lists of recommendations need as many targets; got {len(targets)}.")
    found = items == np.asarray(targets, items.dtype)[:, None]
    first = found.argmax(axis=1) if items.shape[1] else np.zeros(len(items), np.int64)
    higher = np.where(found.any(axis=1), first, BEYOND).astype(np.int64)
    return Places(higher, np.zeros_like(higher))


def hit(places: Places, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: chance that the target is among the first k. With one target this is recall@k."""
    return _expected(places, np.ones(k))


def ndcg(places: Places, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: 1 / log2(place + 1), places counted from 1, nothing after the first k."""
    return _expected(places, 1 / np.log2(np.arange(2, k + 2)))


def mrr(places: Places, k: int | None = None) -> np.ndarray:
    """(rows,) float64 in 0..1: 1 / place, places counted from 1; nothing after the first k, if k is given."""
    if k is None:
        last = places.higher + places.tied + 1
        k = int(last[places.higher < BEYOND].max(initial=0))
    return _expected(places, 1 / np.arange(1, k + 1))


def precision(places: Places, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1/k: share of the first k that is the target, of which there is one."""
    return hit(places, k) / k


def weighted(values: np.ndarray, worth: np.ndarray) -> float:
    """A mean in which a row counts what its target is worth: revenue won, as a share of the revenue there was.

    Args:
        values: (rows,) a metric of each row, usually `hit`.
        worth: (rows,) price, margin or another worth of each target, at least 0; not a number where it is unknown,
            which leaves the row out.

    Raises:
        ValueError: the shapes differ, or no target is worth anything.
    """
    known = np.isfinite(worth)
    if values.shape != worth.shape or not worth[known].sum() > 0:
        raise ValueError("Weights need one worth for each row, at least one of them above 0.")
    return float(values[known] @ worth[known] / worth[known].sum())


def _expected(places: Places, worth: np.ndarray) -> np.ndarray:
    """Mean of `worth` (k,) over the places that the target may stand on; places after the k-th are worth nothing."""
    total = np.concatenate([[0.0], np.cumsum(worth)])
    first = np.minimum(places.higher, len(worth))
    after = np.minimum(places.higher + places.tied + 1, len(worth))
    return (total[after] - total[first]) / (places.tied + 1)


# By the name in recipes and metrics.json: `hr@10` is `RANKING["hr"](places, 10)`. A row has one target, so recall is a
# hit, and average precision the reciprocal place.
RANKING: dict[str, Callable[[Places, int], np.ndarray]] = {
    "hr": hit,
    "ndcg": ndcg,
    "mrr": mrr,
    "recall": hit,
    "precision": precision,
    "map": mrr,
}


def slices(targets: np.ndarray, histories: Sequences, events_of_item: np.ndarray) -> dict[str, np.ndarray]:
    """Slice of the cases → (cases,) bool. Head, tail and cold items divide the cases; so do short and long histories.

    Args:
        targets: (cases,) held-out item of each case.
        histories: what was known before each case.
        events_of_item: (n_items,) training events of each item.
    """
    cold = events_of_item[targets] == 0
    head = is_head(events_of_item)[targets] & ~cold
    long = histories.lengths > np.median(histories.lengths) if len(histories) else np.zeros(0, bool)
    return {
        "head items": head,
        "tail items": ~head & ~cold,
        "cold items": cold,
        "short histories": ~long,
        "long histories": long,
    }


def is_head(events_of_item: np.ndarray) -> np.ndarray:
    """(n_items,) bool: the fewest most popular items with the share `HEAD` of events; equal counts stay together."""
    ordered = np.sort(events_of_item)[::-1]
    reached = np.searchsorted(np.cumsum(ordered), HEAD * ordered.sum())
    return (events_of_item >= max(ordered[min(reached, len(ordered) - 1)], 1)) if len(ordered) else np.zeros(0, bool)
