"""Beyond-accuracy metrics of recommendation lists: coverage, novelty, diversity, serendipity, item fairness.

A list is a row of item numbers, best first, padded with -1. Metrics of a system are one number; metrics of a row are
means over its list, and NaN for an empty list.

Sources: Vargas and Castells 2011 (novelty, intra-list distance); Ge et al. 2010 (serendipity against an obvious list);
Abdollahpouri et al. 2019, arXiv 1907.13286 (popularity lift); Rampisela et al. 2023, "Evaluation Measures of Individual
Item Fairness for Recommender Systems: A Critical Study", ACM TORS, arXiv 2311.01013.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from llmrec.contracts import Sequences

BLOCK = 1 << 20  # numbers per block: fits into the CPU cache


def exposures(lists: np.ndarray, n_items: int) -> np.ndarray:
    """Number of lists that contain each item, (n_items,) int64.

    Raises:
        ValueError: an item number outside the catalogue.
    """
    if lists.size and lists.max() >= n_items:
        raise ValueError(f"Item {lists.max()} is recommended, but the catalogue ends at {n_items - 1}.")
    counts = np.zeros(n_items + 1, np.int64)
    for block in _blocks(lists):
        counts += np.bincount((block + 1).ravel(), minlength=n_items + 1)  # padding is dropped below
    return counts[1:]


def coverage(counts: np.ndarray) -> float:
    """Share of the catalogue that is in at least one list; counts (n_items,) from `exposures`."""
    return float(np.count_nonzero(counts) / len(counts))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of exposure: 0 if equal for all items, near 1 if one item has all; counts (n_items,)."""
    ordered = np.sort(counts)
    return float(_gini_sum(ordered) / (len(ordered) * ordered.sum()))


def entropy(counts: np.ndarray) -> float:
    """Entropy of exposure in bits: log2 of the effective number of items."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share @ np.log2(share)))


def novelty(lists: np.ndarray, users_of_item: np.ndarray, n_users: int) -> np.ndarray:
    """Mean self-information of each list in bits, (rows,) float64: log2(n_users / training users of the item).

    Args:
        lists: (rows, k) item numbers.
        users_of_item: (n_items,) training users of each item; 0 counts as half a user.
        n_users: training users.
    """
    return _mean(lists, np.log2(n_users / np.maximum(users_of_item, 0.5)))


def diversity(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Intra-list diversity, (rows,) float64 in 0..2: mean cosine distance over pairs; NaN below two items.

    Args:
        lists: (rows, k) item numbers.
        vectors: (n_items, dimensions) of the items, or one-hot labels. A zero vector is at distance 1 from all others.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = np.concatenate([unit, np.zeros((1, unit.shape[1]))]).astype(np.float32)  # padding reads the last row: zeros
    squared = np.einsum("id,id->i", unit, unit)
    similarity = np.empty(len(lists))
    step = max(1, BLOCK // max(lists.shape[1] * unit.shape[1], 1))
    for start in range(0, len(lists), step):
        block = lists[start : start + step]
        # The sum of cosines over pairs is the square of the summed unit vectors minus their squares.
        total = unit[block].sum(axis=1)
        similarity[start : start + step] = np.einsum("rd,rd->r", total, total) - squared[block].sum(axis=1)
    return 1 - _mean_over_pairs(similarity, lists)


def category_diversity(lists: np.ndarray, category: np.ndarray) -> np.ndarray:
    """Share of item pairs with different categories, (rows,) float64 in 0..1; (n_items,) int labels from 0."""
    k = lists.shape[1]
    ends = (-1 - np.arange(k)).astype(np.int32)  # padding equals nothing, not even other padding
    labels = np.append(category, 0).astype(np.int32)
    same: list[np.ndarray] = [np.zeros(0)]
    for block in _blocks(lists):
        ordered = np.sort(np.where(block >= 0, labels[block], ends), axis=1)
        change = np.ones(ordered.shape, bool)
        change[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        starts = np.flatnonzero(change)
        sizes = np.diff(np.append(starts, ordered.size))  # items per category and list
        same.append(np.bincount(starts // max(k, 1), weights=sizes * (sizes - 1), minlength=len(block)))
    return 1 - _mean_over_pairs(np.concatenate(same), lists)


def serendipity(lists: np.ndarray, targets: np.ndarray, obvious: np.ndarray) -> np.ndarray:
    """Unexpected hits, (rows,) float64, 0 or 1: the target is in the list but not in the obvious one."""
    target = np.asarray(targets)[:, None]
    return ((lists == target).any(axis=1) & ~(obvious == target).any(axis=1)).astype(np.float64)


def popularity_lift(lists: np.ndarray, histories: Sequences, users_of_item: np.ndarray) -> float:
    """Relative popularity of recommendations over histories: 0 for equally popular, 0.5 for 50 % more popular.

    Rows without a history or recommendations are ignored; NaN if none is left.
    """
    history_sums = np.bincount(histories.rows, weights=users_of_item[histories.items], minlength=len(histories))
    list_means = _mean(lists, users_of_item)
    rows = (histories.lengths > 0) & ~np.isnan(list_means)
    history_means = history_sums[rows] / histories.lengths[rows]
    return (
        float(list_means[rows].mean() / history_means.mean() - 1)
        if rows.any() and history_means.sum()
        else float("nan")
    )


def _mean(lists: np.ndarray, of_item: np.ndarray) -> np.ndarray:
    """Mean of an item property (n_items,) over each list."""
    padded = np.append(of_item.astype(np.float32), np.float32(0))  # padding reads the last one: zero
    totals = [padded[block].sum(axis=1, dtype=np.float64) for block in _blocks(lists)]
    with np.errstate(invalid="ignore"):
        return np.concatenate([np.zeros(0), *totals]) / (lists >= 0).sum(axis=1)


def _blocks(lists: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, BLOCK // max(lists.shape[1], 1))
    return (lists[start : start + step] for start in range(0, len(lists), step))


def _mean_over_pairs(total: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Divide a sum over ordered pairs by their number; NaN for fewer than two items."""
    lengths = (lists >= 0).sum(axis=1)
    pairs = lengths * (lengths - 1.0)
    return np.divide(total, pairs, out=np.full(len(lists), np.nan), where=pairs > 0)


@dataclass(frozen=True)
class Exposure:
    """Exposure counts, for fairness measures that are corrected to range exactly from 0 to 1.

    With m lists of k distinct items from a catalogue of n, not every allocation is possible: at least k items are
    shown, and none more than m times. A corrected measure is 0 at the least even possible allocation (the same k items
    in every list) and 1 at the most even one; Gini is reversed. It is NaN if both are the same (n = k, or a single
    list). Sums are integers, so the ends of the range are exact.

    Attributes:
        counts: (n_items,) int64, lists that contain each item.
        lists: m, the number of lists.
        k: items per list.
    """

    counts: np.ndarray
    lists: int
    k: int

    @classmethod
    def of(cls, recommended: np.ndarray, n_items: int) -> Exposure:
        """Count lists (rows, k) of distinct items.

        Raises:
            ValueError: a list is shorter than the others.
        """
        if (recommended < 0).any() or not recommended.size:
            raise ValueError("Fairness is measured over lists of one length; some are short. Rank fewer items (k).")
        return cls(exposures(recommended, n_items), *recommended.shape)

    @property
    def items(self) -> int:
        """n, the size of the catalogue."""
        return len(self.counts)

    @property
    def slots(self) -> int:
        """m k, the total exposure."""
        return self.lists * self.k

    @property
    def even(self) -> tuple[int, int]:
        """(q, r) of the most even allocation: r items are in q + 1 lists, the others in q."""
        return divmod(self.slots, self.items)


def jain_corrected(shown: Exposure) -> float:
    """Jain's index, (sum c)^2 / (n sum c^2), rescaled from its minimum k / n to its maximum."""
    q, r = shown.even
    counts = shown.counts.astype(object) if shown.lists > 1 << 20 else shown.counts  # squares beyond 64 bits
    squares, fewest, slots = int(counts @ counts), shown.items * q * q + r * (2 * q + 1), shown.slots**2
    return _ratio(fewest * (slots - shown.k * squares), squares * (slots - shown.k * fewest))


def qualification_corrected(shown: Exposure) -> float:
    """QF, the share of items shown at all, rescaled from k items to the most that the slots allow."""
    return _ratio(int(np.count_nonzero(shown.counts)) - shown.k, min(shown.items, shown.slots) - shown.k)


def entropy_corrected(shown: Exposure) -> float:
    """Entropy of exposure, rescaled from that of k items to that of the most even allocation."""
    q, r = shown.even
    even = np.r_[np.full(r, q + 1), np.full(shown.items - r, q)]
    least, actual, most = (_weighted_logs(c) for c in (np.full(shown.k, shown.lists), shown.counts, even))
    return _ratio(least - actual, least - most)


def gini_corrected(shown: Exposure) -> float:
    """Gini coefficient, rescaled from its minimum to its maximum."""
    _, r = shown.even
    least = (shown.items - r) * r
    return _ratio(int(_gini_sum(np.sort(shown.counts))) - least, (shown.items - shown.k) * shown.slots - least)


def gini_weighted(recommended: np.ndarray, n_items: int) -> float:
    """Gini coefficient of rank-discounted exposure, 1 / log2(rank + 1) with ranks from 1; not corrected."""
    discounts = np.broadcast_to(1 / np.log2(np.arange(2, recommended.shape[1] + 2)), recommended.shape)
    return gini(np.bincount(recommended.ravel(), weights=discounts.ravel(), minlength=n_items))


def satisfied_corrected(shown: Exposure) -> float:
    """FSat, the share of items with at least an even share (rounded down), rescaled from k / n to 1.

    NaN if there are fewer slots than items, since the even share is then 0.
    """
    if shown.even[0] == 0:
        return float("nan")
    return _ratio(int((shown.counts >= shown.even[0]).sum()) - shown.k, shown.items - shown.k)


CORRECTED: dict[str, Callable[[Exposure], float]] = {
    "jain": jain_corrected,
    "qf": qualification_corrected,
    "entropy": entropy_corrected,
    "gini": gini_corrected,
    "fsat": satisfied_corrected,
}


def _gini_sum(ordered: np.ndarray) -> np.number:
    """Gini coefficient times n times the sum; an integer for integer counts."""
    return (2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1) @ ordered


def _weighted_logs(counts: np.ndarray) -> float:
    """Sum of c ln c over distinct counts, so that equal allocations have exactly equal sums."""
    values, times = np.unique(counts[counts > 1], return_counts=True)
    return float((times * values) @ np.log(values)) if len(values) else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
