"""Figures of lists beyond accuracy (coverage, novelty, diversity, fairness), and figures by slice of the cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset, EvalCases
from llmrec.errors import DataError
from llmrec.metrics import beyond
from llmrec.metrics.ranking import slices
from llmrec.recipe import Evaluate

K = 10
"""Depth of the lists that are judged."""


@dataclass(frozen=True)
class World:
    """What lists are judged against.

    Attributes:
        users_of_item: (n_items,) int64, training users of each item.
        users: training users.
        obvious: (cases, K) the most popular items that each case may be given.
        vectors: (n_items, dimensions) float32, or None.
        category: (n_items,) int64 label of each item, or None.
    """

    cases: EvalCases
    n_items: int
    users_of_item: np.ndarray
    users: int
    obvious: np.ndarray
    vectors: np.ndarray | None = None
    category: np.ndarray | None = None

    @classmethod
    def of(cls, dataset: Dataset, cases: EvalCases, settings: Evaluate, vectors: np.ndarray | None) -> World:
        """From the training part of a data set, its items and their vectors (n_items, dimensions).

        Raises:
            DataError: the items have no column that `settings.category_column` names.
        """
        train = dataset.before("valid")
        pairs = np.unique(train.rows * dataset.n_items + train.items)
        counts = np.bincount(pairs % dataset.n_items, minlength=dataset.n_items)
        labels = _labels(dataset.items, settings.category_column) if settings.category_column else None
        users = int((train.lengths > 0).sum())
        seen = cases.histories if settings.exclude_seen else Sequences.of([[]] * len(cases.users))
        return cls(cases, dataset.n_items, counts, users, _obvious(counts, seen), vectors, labels)


def figures(world: World, lists: np.ndarray) -> dict[str, Any]:
    """Name → figure of one system's first `K` items; a figure that has no value is None.

    Args:
        lists: (cases, at least 1) item numbers, best first, -1 where a list ends.
    """
    lists = lists[:, :K]
    counts = beyond.exposures(lists, world.n_items)
    found = {
        "coverage": beyond.coverage(counts),
        "gini": beyond.gini(counts) if counts.any() else float("nan"),
        "entropy bits": beyond.entropy(counts) if counts.any() else float("nan"),
        "novelty bits": _mean(beyond.novelty(lists, world.users_of_item, max(world.users, 1))),
        "popularity lift": beyond.popularity_lift(lists, world.cases.histories, world.users_of_item),
        "serendipity": _mean(beyond.serendipity(lists, world.cases.targets, world.obvious)),
    }
    if world.vectors is not None:
        found["diversity of text"] = _mean(beyond.diversity(lists, world.vectors))
    if world.category is not None:
        found["diversity of category"] = _mean(beyond.category_diversity(lists, world.category))
    if (lists >= 0).all():
        shown = beyond.Exposure.of(lists, world.n_items)
        found |= {f"fairness {name}": measure(shown) for name, measure in beyond.CORRECTED.items()}
        found["gini by place"] = beyond.gini_weighted(lists, world.n_items)
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}


def by_slice(world: World, per_user: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Slice → how many cases it has, and system → metric → mean of (cases,) over them; empty slices are left out."""
    masks = slices(world.cases.targets, world.cases.histories, world.users_of_item)
    return {
        name: {
            "cases": int(mask.sum()),
            "systems": {s: {m: float(v[mask].mean()) for m, v in table.items()} for s, table in per_user.items()},
        }
        for name, mask in masks.items()
        if mask.any()
    }


def top(scores: np.ndarray, exclude: Sequences | None, k: int) -> np.ndarray:
    """(rows, k) int32, the best items by score; ties go to a fixed random order of items, -1 where items run out.

    Args:
        scores: (rows, n_items), larger is better; left as they are.
        exclude: items that may not be given, row by row.
    """
    # Not by item number: neighbours in a catalogue are often alike, which would make tied lists look uniform.
    mixed = np.random.default_rng(0).permutation(scores.shape[1])
    left = scores.copy()
    if exclude is not None:
        left[exclude.rows, exclude.items] = -np.inf
    left, kept = left[:, mixed], min(k, scores.shape[1])
    least = np.partition(left, -kept, axis=1)[:, -kept, None]
    above, level = left > least, left == least
    wanted = kept - above.sum(axis=1, keepdims=True)  # of those that tie for the last places, the first ones
    columns = np.nonzero(above | (level & (np.cumsum(level, axis=1) <= wanted)))[1].reshape(len(left), kept)
    found = np.take_along_axis(left, columns, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    ordered = mixed[np.take_along_axis(columns, order, axis=1)].astype(np.int32)
    ordered[np.take_along_axis(found, order, axis=1) == -np.inf] = -1
    return np.pad(ordered, ((0, 0), (0, k - kept)), constant_values=-1)


def _obvious(counts: np.ndarray, exclude: Sequences) -> np.ndarray:
    """(rows, K) the most popular items but those excluded in each row."""
    depth = min(len(counts), K + int(exclude.lengths.max(initial=0)))
    popular = top(counts[None, :].astype(np.float64), None, depth)[0]
    found = np.full((len(exclude), K), -1, np.int32)
    for row, shut in enumerate(exclude):
        new = popular[~np.isin(popular, shut)][:K]
        found[row, : len(new)] = new
    return found


def _labels(items: pa.Table, name: str) -> np.ndarray:
    """A number for each value; lists and all other kinds by how they are written, missing ones as one of their own."""
    if name not in items.column_names:
        raise DataError(
            f"evaluate.category_column names the column '{name}', but items have: {', '.join(items.column_names)}"
        )
    text = pa.array([str(value) for value in items[name].to_pylist()])
    return pc.index_in(text, value_set=pc.unique(text)).to_numpy(zero_copy_only=False).astype(np.int64)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
