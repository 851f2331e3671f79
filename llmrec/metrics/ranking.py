"""Rank of the held-out item, metrics of that rank with ties in expectation, and slices of the cases.

A target that ties with t other items has each of t + 1 ranks with equal probability. Every metric is its exact mean
over those ranks, so the order of items in memory cannot change a result.

Source: McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of
tied scores", ECIR; one relevant item per user, so the ideal DCG is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.contracts import Sequences

HEAD = 0.8  # share of the training events of the head: the most popular items
UNRANKED = 2**40
"""`higher` of a target that was not recommended: below every rank of any catalogue."""


@dataclass(frozen=True)
class Ranks:
    """Rank of each row's target.

    Attributes:
        higher: (rows,) int64, items with a strictly higher score than the target; `UNRANKED` if it was not recommended.
        tied: (rows,) int64, other items with exactly the same score.
    """

    higher: np.ndarray
    tied: np.ndarray


def rank_targets(scores: np.ndarray, targets: np.ndarray, exclude: Sequences | None = None) -> Ranks:
    """Rank each row's target among all items by score.

    Args:
        scores: (rows, items), larger is better, may be -inf; not changed.
        targets: (rows,) integers.
        exclude: items that may not be recommended, by row (usually the history). An excluded target is `UNRANKED`.

    Raises:
        ValueError: the shapes differ, or a score is NaN (which would count as a perfect rank).
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
        return Ranks(higher, tied)
    pairs = np.unique(exclude.rows * items + exclude.items)
    row, item = pairs // items, pairs % items
    excluded = np.zeros(rows, dtype=bool)
    excluded[row[item == targets[row]]] = True
    excluded_scores = scores[row, item]
    higher -= np.bincount(row[excluded_scores > own[row]], minlength=rows)
    tied -= np.bincount(row[excluded_scores == own[row]], minlength=rows)
    return Ranks(np.where(excluded, UNRANKED, higher), np.where(excluded, 0, tied))


def rank_in_lists(items: np.ndarray, targets: np.ndarray) -> Ranks:
    """Rank each row's target in its list of recommendations; `UNRANKED` if it is missing. Lists have no ties.

    Args:
        items: (rows, k) integers, best first; padded with -1.
        targets: (rows,) integers, at least 0.

    Raises:
        ValueError: there are not as many targets as lists.
    """
    if len(items) != len(targets):
        raise ValueError(f"{len(items)} lists of recommendations need as many targets; got {len(targets)}.")
    is_target = items == np.asarray(targets, items.dtype)[:, None]
    first = is_target.argmax(axis=1) if items.shape[1] else np.zeros(len(items), np.int64)
    higher = np.where(is_target.any(axis=1), first, UNRANKED).astype(np.int64)
    return Ranks(higher, np.zeros_like(higher))


def hit(ranks: Ranks, k: int) -> np.ndarray:
    """Hit rate, (rows,) float64 in 0..1: probability that the target is in the top k; with one target, recall@k."""
    return _expected(ranks, np.ones(k))


def ndcg(ranks: Ranks, k: int) -> np.ndarray:
    """NDCG, (rows,) float64 in 0..1: 1 / log2(rank + 1) with ranks from 1, and 0 below the top k."""
    return _expected(ranks, 1 / np.log2(np.arange(2, k + 2)))


def mrr(ranks: Ranks, k: int | None = None) -> np.ndarray:
    """Reciprocal rank, (rows,) float64 in 0..1: 1 / rank with ranks from 1, and 0 below the top k if k is given."""
    if k is None:
        last = ranks.higher + ranks.tied + 1
        k = int(last[ranks.higher < UNRANKED].max(initial=0))
    return _expected(ranks, 1 / np.arange(1, k + 1))


def precision(ranks: Ranks, k: int) -> np.ndarray:
    """Precision, (rows,) float64 in 0..1/k: share of the top k that is the target."""
    return hit(ranks, k) / k


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean of a metric, weighted by a value of each target, such as its price: the share of the revenue won.

    Args:
        values: (rows,) a metric of each row, usually `hit`.
        weights: (rows,) value of each target, at least 0; rows with NaN are left out.

    Raises:
        ValueError: the shapes differ, or no weight is above 0.
    """
    known = np.isfinite(weights)
    if values.shape != weights.shape or not weights[known].sum() > 0:
        raise ValueError("Each row needs a weight, and at least one weight must be above 0.")
    return float(values[known] @ weights[known] / weights[known].sum())


def _expected(ranks: Ranks, gains: np.ndarray) -> np.ndarray:
    """Mean of `gains` (k,) over the possible ranks of the target; ranks below the k-th gain nothing."""
    total = np.concatenate([[0.0], np.cumsum(gains)])
    first = np.minimum(ranks.higher, len(gains))
    after = np.minimum(ranks.higher + ranks.tied + 1, len(gains))
    return (total[after] - total[first]) / (ranks.tied + 1)


# By name in recipes and metrics.json: `hr@10` is `RANKING["hr"](ranks, 10)`. Rows have one target, so recall
# equals the hit rate, and average precision the reciprocal rank.
RANKING: dict[str, Callable[[Ranks, int], np.ndarray]] = {
    "hr": hit,
    "ndcg": ndcg,
    "mrr": mrr,
    "recall": hit,
    "precision": precision,
    "map": mrr,
}


def slices(targets: np.ndarray, histories: Sequences, events_of_item: np.ndarray) -> dict[str, np.ndarray]:
    """Slice name → (cases,) bool. Head, tail and cold items partition the cases; so do short and long histories.

    Args:
        targets: (cases,) held-out item of each case.
        histories: history of each case.
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
    """(n_items,) bool: the smallest set of most popular items with the share `HEAD` of events; ties stay together."""
    ordered = np.sort(events_of_item)[::-1]
    reached = np.searchsorted(np.cumsum(ordered), HEAD * ordered.sum())
    return (events_of_item >= max(ordered[min(reached, len(ordered) - 1)], 1)) if len(ordered) else np.zeros(0, bool)
