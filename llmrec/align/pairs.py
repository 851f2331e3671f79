"""Preference pairs: the item somebody took, and items they did not, by where those come from.

Held-out items are never looked at: one may be drawn against what was taken before it, like any other item. What the
same training history takes later is no bad answer, and is counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.align.moments import Moments
from llmrec.errors import DataError
from llmrec.files import atomic_file
from llmrec.indexing.catalogue import Catalogue

Candidates = Callable[[np.ndarray, int], np.ndarray]
"""Numbers of moments and how many are wanted of each → (moments, k) item numbers, best first; -1 where none is left."""

BLOCK = 512
AHEAD = 16  # candidates asked for beyond those wanted, since some are dropped


@dataclass(frozen=True)
class Pairs:
    """Items taken, and items rejected for them.

    Attributes:
        chosen: (moments,) int32.
        rejected: (moments, negatives) int32, distinct in a row.
        kinds: (moments, negatives) where each came from: a key of the recipe's `rejected`.
        dropped: reason → candidates that were left out.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    kinds: np.ndarray
    dropped: dict[str, int]

    def __post_init__(self) -> None:
        """Refuse pairs that prefer an item to itself.

        Raises:
            DataError: there are such pairs.
        """
        same = np.flatnonzero((self.rejected == self.chosen[:, None]).any(1))
        if len(same):
            raise DataError(
                f"{len(same)} of {len(self.chosen)} pairs reject the item that they choose (the first is pair "
                f"{int(same[0])}, item number {int(self.chosen[same[0]])}): leave those out, nothing can be preferred "
                "to itself."
            )

    def save(self, moments: Moments, users: list[str], catalogue: Catalogue, reference: np.ndarray, path: Path) -> None:
        """Write a parquet file of user_id, place, chosen, rejected, kinds, reference.

        Args:
            moments: what the pairs are about.
            users: id of each row of the training part.
            catalogue: for item ids.
            reference: (moments, 1 + negatives) log-probabilities of all answers under the reference, the chosen first.
            path: of the file.
        """
        ids = np.array(catalogue.item_ids)
        table = {
            "user_id": np.array(users)[moments.users],
            "place": moments.places,
            "chosen": ids[self.chosen],
            "rejected": ids[self.rejected].tolist(),
            "kinds": self.kinds.tolist(),
            "reference": list(reference.astype(np.float32)),
        }
        with atomic_file(path) as file:
            pq.write_table(pa.table(table), file)


def build(moments: Moments, wanted: Mapping[Any, int], sources: Mapping[str, Candidates]) -> Pairs:
    """Items rejected at every moment; what a source cannot fill comes from `random`.

    Args:
        moments: whom, and when.
        wanted: source → how many items of it.
        sources: by name, `random` among them.

    Raises:
        DataError: the catalogue has too few items that a user did not take.
    """
    counts: Counter[str] = Counter()
    parts = [
        _reject(moments, np.arange(start, min(start + BLOCK, len(moments))), wanted, sources, counts)
        for start in range(0, len(moments), BLOCK)
    ]
    rejected, kinds = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Pairs(moments.taken, rejected, kinds, dict(counts))


def _reject(
    moments: Moments,
    rows: np.ndarray,
    wanted: Mapping[Any, int],
    sources: Mapping[str, Candidates],
    counts: Counter[str],
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, negatives) items, and (rows, negatives) where each came from."""
    shape = (len(rows), sum(wanted.values()))
    found, kinds = np.full(shape, -1, np.int32), np.full(shape, "", object)
    start = 0
    for kind, count in wanted.items():
        places = np.arange(start, start + count)
        _fill(moments, rows, sources[kind](rows, count + AHEAD), found, kinds, places, kind, counts)
        start += count
    for turn in range(64):
        missing = np.flatnonzero((found < 0).any(1))
        if not len(missing):
            return found, kinds
        some, named = found[missing], kinds[missing]
        candidates = sources["random"](rows[missing], AHEAD << min(turn, 6))
        _fill(moments, rows[missing], candidates, some, named, np.arange(shape[1]), "random", counts)
        found[missing], kinds[missing] = some, named
    raise DataError(
        f"{len(missing)} histories leave fewer than {shape[1]} of the catalogue's {moments.n_items} items to reject. "
        "Lower train.N.negatives."
    )


def _fill(
    moments: Moments,
    rows: np.ndarray,
    candidates: np.ndarray,
    found: np.ndarray,
    kinds: np.ndarray,
    places: np.ndarray,
    kind: str,
    counts: Counter[str],
) -> None:
    """Put good candidates, best first, into the free ones of some places; count those that are no bad answers."""
    there = candidates >= 0
    items = np.maximum(candidates, 0)
    taken = there & (items == moments.taken[rows][:, None])
    later = there & ~taken & moments.later(items, rows)
    had = there & ~taken & ~later & moments.before(items, rows) & (not moments.again)
    counts["taken later by the same user"] += int(later.sum())
    counts["had before by the same user"] += int(had.sum())
    good = there & ~taken & ~later & ~had
    row = np.arange(len(rows))
    for column in range(candidates.shape[1]):
        free = found[:, places] < 0
        fits = good[:, column] & free.any(1) & ~(found == candidates[:, column][:, None]).any(1)
        at = places[free.argmax(1)]
        found[row[fits], at[fits]], kinds[row[fits], at[fits]] = candidates[fits, column], kind
