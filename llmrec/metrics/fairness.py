"""How evenly recommendations show the items of a catalogue: five published measures, each corrected to span 0 to 1.

With m lists of k distinct items over a catalogue of n, not every allocation can be: at the least k items are shown, and
nobody more than m times. The corrected measures are 0 at the most uneven allocation that can be (everybody gets the
same k items) and 1 at the most even one, exactly; Gini runs the other way, as it always does. Where the two allocations
are one (n = k, or a single list), a corrected measure is not a number.

Source: Rampisela et al. 2023, "Evaluation Measures of Individual Item Fairness for Recommender Systems: A Critical
Study", ACM TORS, arXiv 2311.01013. Sums are kept as whole numbers, so the ends of the scale are met to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.metrics.beyond import exposures


@dataclass(frozen=True)
class Exposure:
    """Who is shown how often.

    Attributes:
        counts: (n_items,) int64, lists that show each item; together lists x k.
        lists: how many lists there are.
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
    """Jain's index, (sum c)^2 / (n sum c^2), from the least that can be, k / n, to the most."""
    q, r = shown.even
    squares, fewest, slots, k = _squares(shown), shown.items * q * q + r * (2 * q + 1), shown.slots**2, shown.k
    return _over(fewest * (slots - k * squares), squares * (slots - k * fewest))


def qualification_corrected(shown: Exposure) -> float:
    """QF, the share of items that are shown at all, from k items to as many as the slots can hold."""
    return _over(int(np.count_nonzero(shown.counts)) - shown.k, min(shown.items, shown.slots) - shown.k)


def entropy_corrected(shown: Exposure) -> float:
    """Entropy of exposure, from that of k items to that of the most even allocation."""
    q, r = shown.even
    even = np.r_[np.full(r, q + 1), np.full(shown.items - r, q)]
    same, found, most = (_weighted_logs(c) for c in (np.full(shown.k, shown.lists), shown.counts, even))
    return _over(same - found, same - most)


def gini_corrected(shown: Exposure) -> float:
    """Gini's coefficient from the least that can be, 0, to the most, 1."""
    _, r = shown.even
    least = (shown.items - r) * r
    return _over(_spread(shown.counts) - least, (shown.items - shown.k) * shown.slots - least)


def gini_weighted(recommended: np.ndarray, n_items: int) -> float:
    """Gini's coefficient of exposure that fades down the list: 1 / log2(place + 1), places from 1; never corrected."""
    fades = np.broadcast_to(1 / np.log2(np.arange(2, recommended.shape[1] + 2)), recommended.shape)
    seen = np.sort(np.bincount(recommended.ravel(), weights=fades.ravel(), minlength=n_items))
    return float((2 * np.arange(1, n_items + 1) - n_items - 1) @ seen / (n_items * seen.sum()))


def satisfied_corrected(shown: Exposure) -> float:
    """FSat, the share of items with at least an even share, rounded down, from k / n to 1.

    Not a number where there are fewer slots than items, since the even share is then 0.
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


def _squares(shown: Exposure) -> int:
    return int((shown.counts.astype(object) ** 2).sum()) if shown.lists > 1 << 20 else int(shown.counts @ shown.counts)


def _spread(counts: np.ndarray) -> int:
    ordered = np.sort(counts)
    return int((2 * np.arange(1, len(counts) + 1) - len(counts) - 1) @ ordered)


def _weighted_logs(counts: np.ndarray) -> float:
    """Sum of c ln c, added up by distinct counts, so that equal allocations give equal sums to the bit."""
    values, times = np.unique(counts[counts > 1], return_counts=True)
    return float((times * values) @ np.log(values)) if len(values) else 0.0


def _over(above: float, below: float) -> float:
    return above / below if below else float("nan")
