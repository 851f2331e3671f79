"""Preference pairs: the target item of each position against negative items of several kinds.

Held-out items are not read: a held-out item may be a negative like any other item. Items that the same user takes later
in training are not negatives: they are left out and counted.
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

from llmrec.align.context import AlignmentContext, TrainPositions
from llmrec.contracts import CollaborativeModel
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.errors import DataError
from llmrec.files import atomic_file

NegativeSource = Callable[[np.ndarray, int], np.ndarray]
"""(rows,) positions and how many candidates each needs → (rows, k) item numbers, best first; -1 where none is left."""

BLOCK = 512
SPARE = 16  # more candidates than needed, since some are left out
SEARCH_BATCH = 32  # prompts that are searched together


@dataclass(frozen=True)
class PreferencePairs:
    """Target items and their negatives.

    Attributes:
        targets: (positions,) int32 item numbers.
        negatives: (positions, n) int32 item numbers, distinct in a row.
        kinds: (positions, n) kind of each negative, as in the recipe's `negatives`.
        dropped: reason → number of candidates left out.
    """

    targets: np.ndarray
    negatives: np.ndarray
    kinds: np.ndarray
    dropped: dict[str, int]

    def __post_init__(self) -> None:
        """Raise DataError where a target is its own negative."""
        same = np.flatnonzero((self.negatives == self.targets[:, None]).any(1))
        if len(same):
            raise DataError(
                f"{len(same)} of {len(self.targets)} pairs have their target as a negative (the first is pair "
                f"{int(same[0])}, item number {int(self.targets[same[0]])}): leave these out."
            )

    def save(self, context: AlignmentContext, reference: np.ndarray, path: Path) -> None:
        """Write a parquet file of user_id, place, chosen, rejected, kinds, reference.

        Args:
            context: for ids of users and items.
            reference: (positions, 1 + n) log-probabilities of all answers under the reference, the target first.
            path: of the file.
        """
        ids = np.array(context.catalogue.item_ids)
        table = {
            "user_id": np.array(context.users)[context.positions.users],
            "place": context.positions.index,
            "chosen": ids[self.targets],
            "rejected": ids[self.negatives].tolist(),
            "kinds": self.kinds.tolist(),
            "reference": list(reference.astype(np.float32)),
        }
        with atomic_file(path) as file:
            pq.write_table(pa.table(table), file)


def build_pairs(
    positions: TrainPositions, counts: Mapping[Any, int], sources: Mapping[str, NegativeSource]
) -> PreferencePairs:
    """Choose negatives at every position. Where a source has too few, the rest comes from `random`.

    Args:
        counts: kind → negatives of it.
        sources: by kind, `random` among them.

    Raises:
        DataError: the catalogue has too few items that a user did not take.
    """
    negatives = np.full((len(positions), sum(counts.values())), -1, np.int32)
    kinds, dropped = np.full(negatives.shape, "", object), Counter[str]()

    def fill(rows: np.ndarray, columns: np.ndarray, kind: str, count: int) -> None:
        """Write candidates, best first, into the empty cells of some rows and columns."""
        candidates = sources[kind](rows, count)
        usable = _usable(positions, rows, candidates, dropped)
        for items, good in zip(candidates.T, usable.T, strict=True):
            empty = negatives[rows[:, None], columns] < 0
            chosen = good & empty.any(1) & ~(negatives[rows] == items[:, None]).any(1)
            cells = rows[chosen], columns[empty.argmax(1)[chosen]]
            negatives[cells], kinds[cells] = items[chosen], kind

    for start in range(0, len(positions), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(positions)))
        first = 0
        for kind, count in counts.items():
            fill(rows, np.arange(first, first + count), kind, count + SPARE)
            first += count
        for attempt in range(64):
            rows = rows[(negatives[rows] < 0).any(1)]
            if not len(rows):
                break
            fill(rows, np.arange(first), "random", SPARE << min(attempt, 6))
        else:
            raise DataError(
                f"{len(rows)} training histories leave fewer than {first} of the catalogue's {positions.n_items} items "
                "as negatives. Lower train.N.negatives."
            )
    return PreferencePairs(positions.targets, negatives, kinds, dict(dropped))


def _usable(positions: TrainPositions, rows: np.ndarray, candidates: np.ndarray, dropped: Counter[str]) -> np.ndarray:
    """(rows, k) bool, whether candidates are negatives; counts those that are not."""
    items = np.maximum(candidates, 0)
    other = (candidates >= 0) & (items != positions.targets[rows][:, None])
    later = other & positions.taken_later(items, rows)
    before = other & ~later & positions.had_before(items, rows) & (not positions.repeats)
    dropped["taken later by the same user"] += int(later.sum())
    dropped["had before by the same user"] += int(before.sum())
    return other & ~later & ~before


def random_items(positions: TrainPositions, random: np.random.Generator) -> NegativeSource:
    """Items drawn uniformly."""
    return lambda rows, count: random.integers(positions.n_items, size=(len(rows), count))


def popular_items(positions: TrainPositions, random: np.random.Generator) -> NegativeSource:
    """Items drawn by their count in training histories plus 1."""
    counts = np.bincount(positions.train.items, minlength=positions.n_items) + 1.0
    cumulative = np.cumsum(counts) / counts.sum()

    def candidates(rows: np.ndarray, count: int) -> np.ndarray:
        items = np.searchsorted(cumulative, random.random((len(rows), count)), side="right")
        return items.clip(max=positions.n_items - 1)

    return candidates


def teacher_items(positions: TrainPositions, teacher: CollaborativeModel) -> NegativeSource:
    """The top items of a collaborative model, fitted on the training part, after each history."""

    def candidates(rows: np.ndarray, count: int) -> np.ndarray:
        scores = np.array(teacher.score(positions.histories(rows)), np.float32)
        if not positions.repeats:
            for number, row in enumerate(rows):
                scores[number, positions.history(int(row))] = -np.inf
        width = min(count + _most_later(positions, rows), positions.n_items)
        return np.argsort(-scores, axis=1, kind="stable")[:, :width]

    return candidates


def beam_items(context: AlignmentContext, scorer: Scorer) -> NegativeSource:
    """The top items of the language model, found by beam search as in serving, after each prompt."""
    positions, trie = context.positions, context.catalogue.trie

    def candidates(rows: np.ndarray, count: int) -> np.ndarray:
        width = min(count + _most_later(positions, rows), len(trie))
        items = np.full((len(rows), width), -1, np.int32)
        order = np.argsort([len(context.prompts[row]) for row in rows], kind="stable")  # similar lengths share a batch
        for start in range(0, len(rows), SEARCH_BATCH):
            batch = order[start : start + SEARCH_BATCH]
            prompts = [context.prompts[row].tolist() for row in rows[batch]]
            filters = positions.filters(rows[batch], trie)
            items[batch] = beam_search(scorer, trie, context.tokens, prompts, width, filters=filters).items
        return items

    return candidates


def _most_later(positions: TrainPositions, rows: np.ndarray) -> int:
    """The most items that a user takes at or after one of some positions: candidates that will be left out."""
    return int((positions.train.lengths[positions.users[rows]] - positions.index[rows]).max())
