"""Ranking metrics for rows with several held-out items, ties in expectation over every order of the tied items.

With one relevant item a row each of them is the metric of the same name in `ranking`.

Source: McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of
tied scores", ECIR, eqs. 4 to 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.contracts import Sequences
from llmrec.metrics.ranking import BEYOND, Places, place, place_in_list

BLOCK = 1024
"""Targets placed at once, each with a row of scores of its own."""


@dataclass(frozen=True)
class Group:
    """Where every relevant item of every row landed.

    Attributes:
        rows: (targets,) int64, the row of each relevant item; every row has at least one.
        higher: (targets,) int64, items that score strictly better; `BEYOND` where an item cannot be reached.
        tied: (targets,) int64, other items that score the same.
        better: (targets,) int64, relevant items of the row that score strictly better.
        level: (targets,) int64, other relevant items of the row that score the same.
    """

    rows: np.ndarray
    higher: np.ndarray
    tied: np.ndarray
    better: np.ndarray
    level: np.ndarray

    @property
    def relevant(self) -> np.ndarray:
        """(rows,) int64, relevant items of each row."""
        return np.bincount(self.rows)

    def total(self, worth: np.ndarray) -> np.ndarray:
        """(rows,) the sum of a figure (targets,) over the relevant items of each row."""
        return np.bincount(self.rows, weights=worth)


def place_several(scores: np.ndarray, relevant: Sequences, exclude: Sequences | None = None) -> Group:
    """Place every relevant item of each row among all items by score; arguments as for `ranking.place`.

    Raises:
        ValueError: a row has no relevant item, or one twice; see also `ranking.place`.
    """
    _check(relevant)
    parts = []
    for start in range(0, len(relevant.items), BLOCK):
        rows = relevant.rows[start : start + BLOCK]
        shut = None if exclude is None else Sequences.of([exclude[int(row)] for row in rows])
        parts.append(place(scores[rows], relevant.items[start : start + BLOCK], shut))
    return _grouped(relevant.rows, [p.higher for p in parts], [p.tied for p in parts])


def place_several_in_list(items: np.ndarray, relevant: Sequences) -> Group:
    """Place every relevant item of each row in a list (rows, k) of recommendations, best first, -1 where it ends.

    Raises:
        ValueError: a row has no relevant item, or one twice.
    """
    _check(relevant)
    places: Places = place_in_list(items[relevant.rows], relevant.items)
    return _grouped(relevant.rows, [places.higher], [places.tied])


def _check(relevant: Sequences) -> None:
    pairs = relevant.rows * (int(relevant.items.max(initial=0)) + 1) + relevant.items
    if not relevant.lengths.all() or len(np.unique(pairs)) < len(pairs):
        raise ValueError("Each row needs at least one relevant item, and none of them twice. Leave other rows out.")


def _grouped(rows: np.ndarray, higher: list[np.ndarray], tied: list[np.ndarray]) -> Group:
    above, beside = np.concatenate(higher), np.concatenate(tied)
    order = np.lexsort((above, rows))
    sorted_rows, sorted_above = rows[order], above[order]
    first_of_row = np.searchsorted(sorted_rows, sorted_rows)
    key_changes = np.r_[True, (np.diff(sorted_rows) != 0) | (np.diff(sorted_above) != 0)]
    group = np.cumsum(key_changes) - 1
    starts = np.flatnonzero(key_changes)
    better, level = np.empty_like(above), np.empty_like(above)
    better[order] = starts[group] - first_of_row
    level[order] = np.bincount(group)[group] - 1
    return Group(rows, above, beside, better, np.minimum(level, beside))  # items out of reach share no place


def recall(group: Group, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: share of the relevant items among the first k."""
    return _found(group, k) / group.relevant


def precision(group: Group, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: share of the first k that is relevant."""
    return _found(group, k) / k


def ndcg(group: Group, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: discounted gain over that of the best order of the row's relevant items."""
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return group.total(_expected(group, 1 / np.log2(np.arange(2, k + 2)))) / ideal[np.minimum(group.relevant, k)]


def average_precision(group: Group, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: mean over the first min(relevant, k) hits of the precision at their places."""
    # At place p of its tied ones (places s+1 to s+t) an item has `better` relevant ones above, itself, and of its
    # `level` tied ones the share (p - s - 1) / (t - 1) before it; divided by p and summed over p, 1/t each.
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, k + 1))])
    start, end = np.minimum(group.higher, k), np.minimum(group.higher + group.tied + 1, k)
    slope = group.level / np.maximum(group.tied, 1)
    fixed = group.better + 1 - slope * (start + 1)
    gains = (fixed * (harmonic[end] - harmonic[start]) + slope * (end - start)) / (group.tied + 1)
    return group.total(gains) / np.minimum(group.relevant, k)


def hit(group: Group, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: chance that any relevant item is among the first k."""
    return 1 - _none_within(group, k)


def mrr(group: Group, k: int) -> np.ndarray:
    """(rows,) float64 in 0..1: 1 / place of the first relevant item, 0 where it comes after the first k."""
    none = np.stack([_none_within(group, place) for place in range(k + 1)])
    return (none[:-1] - none[1:]).T @ (1 / np.arange(1, k + 1))


def _found(group: Group, k: int) -> np.ndarray:
    return group.total(_expected(group, np.ones(k)))


def _expected(group: Group, worth: np.ndarray) -> np.ndarray:
    """(targets,) mean of `worth` (k,) over the places that each target may stand on."""
    total = np.concatenate([[0.0], np.cumsum(worth)])
    start, end = np.minimum(group.higher, len(worth)), np.minimum(group.higher + group.tied + 1, len(worth))
    return (total[end] - total[start]) / (group.tied + 1)


def _none_within(group: Group, k: int) -> np.ndarray:
    """(rows,) chance that no relevant item is among the first k: only the best relevant ones of a row decide."""
    best = np.flatnonzero(group.better == 0)
    best = best[np.unique(group.rows[best], return_index=True)[1]]
    size, relevant = group.tied[best] + 1, group.level[best] + 1
    places = np.clip(k - np.minimum(group.higher[best], BEYOND), 0, size)
    chance = np.ones(len(best))
    for taken in range(int(relevant.max(initial=0))):
        left = np.maximum(size - places - taken, 0) / np.maximum(size - taken, 1)
        chance *= np.where(taken < relevant, left, 1.0)
    return chance


SEVERAL: dict[str, Callable[[Group, int], np.ndarray]] = {
    "hr": hit,
    "ndcg": ndcg,
    "mrr": mrr,
    "recall": recall,
    "precision": precision,
    "map": average_precision,
}
"""By the names of `ranking.RANKING`."""
