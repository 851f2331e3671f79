"""Metrics of recommendation lists beside accuracy: coverage, novelty, diversity, serendipity, item fairness.

A list is a row of item numbers, best first, -1 where it ends. Figures of a whole system are one number; those of a row
are means over its list, and NaN for an empty one.

Sources: Vargas and Castells 2011 (novelty, intra-list distance); Ge et al. 2010 (serendipity against an obvious list);
Abdollahpouri et al. 2019, arXiv 1907.13286 (popularity lift); Rampisela et al. 2023, "Evaluation Measures of Individual
Item Fairness for Recommender Systems: A Critical Study", ACM TORS, arXiv 2311.01013.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from llmrec.contracts import Sequences

BLOCK = 1 << 20  # numbers in memory at once: few enough to stay in a processor's cache


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
    return float(_gini_sum(ordered) / (len(ordered) * ordered.sum()))


def entropy(counts: np.ndarray) -> float:
    """Entropy of the exposure in bits: log2 of how many equally shown items would be as varied."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share @ np.log2(share)))


def novelty(lists: np.ndarray, users_of_item: np.ndarray, n_users: int) -> np.ndarray:
    """(rows,) float64, mean self-information in bits: log2(n_users / users that had the item in training).

    Args:
        lists: (rows, k) item numbers.
        users_of_item: (n_items,) training users of each item; 0 counts as half a user.
        n_users: training users.
    """
    return _mean(lists, np.log2(n_users / np.maximum(users_of_item, 0.5)))


def diversity(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(rows,) float64 in 0..2: mean cosine distance over the pairs of a list; NaN below two items.

    Args:
        lists: (rows, k) item numbers.
        vectors: (n_items, dimensions) of the items, or of their labels: a column for each, 1 where the item has it.
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

    Rows without a history, or without a recommendation, are left out; NaN where none is left.
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
    """A sum over ordered pairs as a mean; NaN for fewer than two items."""
    lengths = (lists >= 0).sum(axis=1)
    pairs = lengths * (lengths - 1.0)
    return np.divide(twice, pairs, out=np.full(len(lists), np.nan), where=pairs > 0)


@dataclass(frozen=True)
class Exposure:
    """How often each item is shown, for measures of fairness that are corrected to span exactly 0 to 1.

    With m lists of k distinct items over a catalogue of n, not every allocation is possible: at least k items are
    shown, and none more than m times. A corrected measure is 0 at the most uneven possible allocation (the same k items
    in every list) and 1 at the most even one; Gini runs the other way. It is NaN where the two are one (n = k, or a
    single list). Sums are kept as whole numbers, so the ends of the scale are met to the bit.

    Attributes:
        counts: (n_items,) int64, lists that show each item.
        lists: m, how many lists there are.
        k: items of each list.
    """

    counts: np.ndarray
    lists: int
    k: int

    @classmethod
    def of(cls, recommended: np.ndarray, n_items: int) -> Exposure:
        """Count lists (rows, k) of distinct items.

        Raises:
            ValueError: a list is shorter than the others, which would leave slots without an item.
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
        """m k, the exposure that there is."""
        return self.lists * self.k

    @property
    def even(self) -> tuple[int, int]:
        """Quotient and remainder: the most even allocation gives r items q + 1 lists, the others q."""
        return divmod(self.slots, self.items)


def jain_corrected(shown: Exposure) -> float:
    """Jain's index, (sum c)^2 / (n sum c^2), from its least, k / n, to its most."""
    q, r = shown.even
    counts = shown.counts.astype(object) if shown.lists > 1 << 20 else shown.counts  # squares beyond 64 bits
    squares, fewest, slots = int(counts @ counts), shown.items * q * q + r * (2 * q + 1), shown.slots**2
    return _over(fewest * (slots - shown.k * squares), squares * (slots - shown.k * fewest))


def qualification_corrected(shown: Exposure) -> float:
    """QF, the share of items that are shown at all, from k items to as many as the slots can hold."""
    return _over(int(np.count_nonzero(shown.counts)) - shown.k, min(shown.items, shown.slots) - shown.k)


def entropy_corrected(shown: Exposure) -> float:
    """Entropy of exposure, from that of k items to that of the most even allocation."""
    q, r = shown.even
    even = np.r_[np.full(r, q + 1), np.full(shown.items - r, q)]
    least, found, most = (_weighted_logs(c) for c in (np.full(shown.k, shown.lists), shown.counts, even))
    return _over(least - found, least - most)


def gini_corrected(shown: Exposure) -> float:
    """Gini's coefficient from its least, 0, to its most, 1."""
    _, r = shown.even
    least = (shown.items - r) * r
    return _over(int(_gini_sum(np.sort(shown.counts))) - least, (shown.items - shown.k) * shown.slots - least)


def gini_weighted(recommended: np.ndarray, n_items: int) -> float:
    """Gini's coefficient of exposure that fades down the list: 1 / log2(place + 1), places from 1; never corrected."""
    fades = np.broadcast_to(1 / np.log2(np.arange(2, recommended.shape[1] + 2)), recommended.shape)
    return gini(np.bincount(recommended.ravel(), weights=fades.ravel(), minlength=n_items))


def satisfied_corrected(shown: Exposure) -> float:
    """FSat, the share of items with at least an even share, rounded down, from k / n to 1.

    NaN where there are fewer slots than items, since the even share is then 0.
    """
    if shown.even[0] == 0:
        return float("nan")
    return _over(int((shown.counts >= shown.even[0]).sum()) - shown.k, shown.items - shown.k)


CORRECTED: dict[str, Callable[[Exposure], float]] = {
    "jain": jain_corrected,
    "qf": qualification_corrected,
    "entropy": entropy_corrected,
    "gini": gini_corrected,
    "fsat": satisfied_corrected,
}


def _gini_sum(ordered: np.ndarray) -> np.number:
    """Gini's coefficient times n times the sum; a whole number for whole counts."""
    return (2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1) @ ordered


def _weighted_logs(counts: np.ndarray) -> float:
    """Sum of c ln c, added up by distinct counts, so that equal allocations give equal sums to the bit."""
    values, times = np.unique(counts[counts > 1], return_counts=True)
    return float((times * values) @ np.log(values)) if len(values) else 0.0


def _over(above: float, below: float) -> float:
    return above / below if below else float("nan")
