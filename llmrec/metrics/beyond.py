"""What lists of recommendations are like, beside whether they hit: spread, novelty, variety, surprise.

A list is a row of item numbers, best first, -1 where it ends. Figures of a whole system are one number; those of a row
are means over its list, and not a number for an empty one.

Sources: Vargas and Castells 2011 (novelty, intra-list distance); Ge et al. 2010 (serendipity against an obvious list);
Abdollahpouri et al. 2019, arXiv 1907.13286 (popularity lift).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmrec.contracts import Sequences

BLOCK = 1 << 20
"""Numbers looked at at once: few enough to stay in a processor's cache."""


def exposures(lists: np.ndarray, n_items: int) -> np.ndarray:
    """(n_items,) int64: in how many lists each item stands.

    Raises:
        ValueError: an item number beyond the catalogue.
    """
    if lists.size and lists.max() >= n_items:
        raise ValueError(f"Item {lists.max()} is recommended, but the catalogue ends at {n_items - 1}.")
    counts = np.zeros(n_items + 1, np.int64)
    for block in _blocks(lists):
        counts += np.bincount((block + 1).ravel(), minlength=n_items + 1)  # -1 is counted too, and left out below
    return counts[1:]


def coverage(counts: np.ndarray) -> float:
    """Share of the catalogue that stands in at least one list; counts (n_items,) as `exposures` gives them."""
    return float(np.count_nonzero(counts) / len(counts))


def gini(counts: np.ndarray) -> float:
    """0 where every item has the same exposure, towards 1 where one has all; counts (n_items,), at least one > 0."""
    ordered = np.sort(counts)
    return float((2 * np.arange(1, len(counts) + 1) - len(counts) - 1) @ ordered / (len(counts) * ordered.sum()))


def entropy(counts: np.ndarray) -> float:
    """Of the exposure, in bits: log2 of how many equally shown items would be as varied."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share @ np.log2(share)))


def novelty(lists: np.ndarray, users_of_item: np.ndarray, n_users: int) -> np.ndarray:
    """(rows,) float64, mean self-information in bits: log2(n_users / users that had the item in training).

    Args:
        lists: (rows, k) item numbers.
        users_of_item: (n_items,) training users of each item; one that nobody had counts as if half a user had it.
        n_users: training users.
    """
    return _mean(lists, np.log2(n_users / np.maximum(users_of_item, 0.5)))


def diversity(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(rows,) float64 in 0..2: mean cosine distance over the pairs of a list; not a number below two items.

    Args:
        lists: (rows, k) item numbers.
        vectors: (n_items, dimensions); an item's own. Several labels a item: a column for each, 1 where it has it.
            A vector of zeros is at distance 1 from all others.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = np.concatenate([unit, np.zeros((1, unit.shape[1]))]).astype(np.float32)  # -1 reads the last row: nothing
    itself = np.einsum("id,id->i", unit, unit)
    alike = np.empty(len(lists))
    step = max(1, BLOCK // max(lists.shape[1] * unit.shape[1], 1))
    for start in range(0, len(lists), step):
        block = lists[start : start + step]
        # The cosines of all pairs are the square of the sum of unit vectors, less each one's square.
        total = unit[block].sum(axis=1)
        alike[start : start + step] = np.einsum("rd,rd->r", total, total) - itself[block].sum(axis=1)
    return 1 - _by_pairs(alike, lists)


def category_diversity(lists: np.ndarray, category: np.ndarray) -> np.ndarray:
    """(rows,) float64 in 0..1: share of the pairs of a list whose categories differ; (n_items,) int labels from 0."""
    k = lists.shape[1]
    ends = (-1 - np.arange(k)).astype(np.int32)  # an end is like nothing, not even another end
    labels = np.append(category, 0).astype(np.int32)
    same: list[np.ndarray] = [np.zeros(0)]
    for block in _blocks(lists):
        ordered = np.sort(np.where(block >= 0, labels[block], ends), axis=1)
        change = np.ones(ordered.shape, bool)
        change[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        starts = np.flatnonzero(change)
        alike = np.diff(np.append(starts, ordered.size))  # of each category of each list, how many items
        same.append(np.bincount(starts // max(k, 1), weights=alike * (alike - 1), minlength=len(block)))
    return 1 - _by_pairs(np.concatenate(same), lists)


def serendipity(lists: np.ndarray, targets: np.ndarray, obvious: np.ndarray) -> np.ndarray:
    """(rows,) float64, 0 or 1: the target is in the list and not in an obvious one (usually the most popular items)."""
    wanted = np.asarray(targets)[:, None]
    return ((lists == wanted).any(axis=1) & ~(obvious == wanted).any(axis=1)).astype(np.float64)


def popularity_lift(lists: np.ndarray, histories: Sequences, users_of_item: np.ndarray) -> float:
    """How much more popular recommendations are than what the same users had: 0 as popular, .5 half as much again.

    Rows without a history, or without a recommendation, are left out; not a number where none is left.
    """
    had = np.bincount(histories.rows, weights=users_of_item[histories.items], minlength=len(histories))
    given = _mean(lists, users_of_item)
    rows = (histories.lengths > 0) & ~np.isnan(given)
    before = had[rows] / histories.lengths[rows]
    return float(given[rows].mean() / before.mean() - 1) if rows.any() and before.sum() else float("nan")


def _mean(lists: np.ndarray, of_item: np.ndarray) -> np.ndarray:
    """Mean over each list of a figure (n_items,)."""
    padded = np.append(of_item.astype(np.float32), np.float32(0))  # -1 reads the last one: nothing
    totals = [padded[block].sum(axis=1, dtype=np.float64) for block in _blocks(lists)]
    with np.errstate(invalid="ignore"):
        return np.concatenate([np.zeros(0), *totals]) / (lists >= 0).sum(axis=1)


def _blocks(lists: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, BLOCK // max(lists.shape[1], 1))
    return (lists[start : start + step] for start in range(0, len(lists), step))


def _by_pairs(twice: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """A sum over ordered pairs as a mean; not a number for fewer than two items."""
    lengths = (lists >= 0).sum(axis=1)
    pairs = lengths * (lengths - 1.0)
    return np.divide(twice, pairs, out=np.full(len(lists), np.nan), where=pairs > 0)
