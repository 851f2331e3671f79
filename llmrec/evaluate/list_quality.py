"""Beyond-accuracy metrics of an evaluation (coverage, novelty, diversity, fairness), and metrics by slice of cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset, EvalCases
from llmrec.errors import DataError
from llmrec.metrics import beyond_accuracy
from llmrec.metrics.ranking import slices
from llmrec.recipe import Evaluate

K = 10
"""Length of the lists that are measured."""


@dataclass(frozen=True)
class ListContext:
    """Data that list metrics need beside the lists.

    Attributes:
        users_of_item: (n_items,) int64, training users of each item.
        users: training users.
        obvious: (cases, K) most popular items of each case, without excluded ones.
        vectors: (n_items, dimensions) float32 of the items' texts, or None.
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
    def of(cls, dataset: Dataset, cases: EvalCases, settings: Evaluate, vectors: np.ndarray | None) -> ListContext:
        """Collect it from the training part of a data set, its items and their vectors (n_items, dimensions).

        Raises:
            DataError: the items have no column `settings.category_column`.
        """
        train = dataset.before("valid")
        pairs = np.unique(train.rows * dataset.n_items + train.items)
        counts = np.bincount(pairs % dataset.n_items, minlength=dataset.n_items)
        labels = _labels(dataset.items, settings.category_column) if settings.category_column else None
        users = int((train.lengths > 0).sum())
        seen = cases.histories if settings.exclude_seen else Sequences.of([[]] * len(cases.users))
        return cls(cases, dataset.n_items, counts, users, _obvious(counts, seen), vectors, labels)


def list_metrics(context: ListContext, lists: np.ndarray) -> dict[str, Any]:
    """Name → metric of one system's lists of `K` items; None for undefined values.

    Args:
        lists: (cases, at least 1) item numbers, best first, padded with -1.
    """
    lists = lists[:, :K]
    counts = beyond_accuracy.exposures(lists, context.n_items)
    metrics = {
        "coverage": beyond_accuracy.coverage(counts),
        "gini": beyond_accuracy.gini(counts) if counts.any() else float("nan"),
        "entropy bits": beyond_accuracy.entropy(counts) if counts.any() else float("nan"),
        "novelty bits": _mean(beyond_accuracy.novelty(lists, context.users_of_item, max(context.users, 1))),
        "popularity lift": beyond_accuracy.popularity_lift(lists, context.cases.histories, context.users_of_item),
        "serendipity": _mean(beyond_accuracy.serendipity(lists, context.cases.targets, context.obvious)),
    }
    if context.vectors is not None:
        metrics["diversity of text"] = _mean(beyond_accuracy.diversity(lists, context.vectors))
    if context.category is not None:
        metrics["diversity of category"] = _mean(beyond_accuracy.category_diversity(lists, context.category))
    if (lists >= 0).all():
        shown = beyond_accuracy.Exposure.of(lists, context.n_items)
        metrics |= {f"fairness {name}": measure(shown) for name, measure in beyond_accuracy.CORRECTED.items()}
        metrics["gini by place"] = beyond_accuracy.gini_weighted(lists, context.n_items)
    return {name: None if np.isnan(value) else float(value) for name, value in metrics.items()}


def by_slice(context: ListContext, per_user: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Slice → its number of cases, and system → metric → mean over them; empty slices are left out."""
    masks = slices(context.cases.targets, context.cases.histories, context.users_of_item)
    return {
        name: {
            "cases": int(mask.sum()),
            "systems": {s: {m: float(v[mask].mean()) for m, v in table.items()} for s, table in per_user.items()},
        }
        for name, mask in masks.items()
        if mask.any()
    }


def top_k(scores: np.ndarray, exclude: Sequences | None, k: int) -> np.ndarray:
    """Best items by score, (rows, k) int32, padded with -1; ties are broken by a fixed random order of items.

    Args:
        scores: (rows, n_items), larger is better; not changed.
        exclude: items that may not be recommended, by row.
    """
    # Not by item number: neighbours in a catalogue are often similar, so tied lists would look less diverse.
    mixed = np.random.default_rng(0).permutation(scores.shape[1])
    remaining = scores.copy()
    if exclude is not None:
        remaining[exclude.rows, exclude.items] = -np.inf
    remaining, kept = remaining[:, mixed], min(k, scores.shape[1])
    lowest = np.partition(remaining, -kept, axis=1)[:, -kept, None]
    above, tied = remaining > lowest, remaining == lowest
    room = kept - above.sum(axis=1, keepdims=True)  # of the items tied at the lowest score, the first ones are kept
    columns = np.nonzero(above | (tied & (np.cumsum(tied, axis=1) <= room)))[1].reshape(len(remaining), kept)
    values = np.take_along_axis(remaining, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ordered = mixed[np.take_along_axis(columns, order, axis=1)].astype(np.int32)
    ordered[np.take_along_axis(values, order, axis=1) == -np.inf] = -1
    return np.pad(ordered, ((0, 0), (0, k - kept)), constant_values=-1)


def _obvious(counts: np.ndarray, exclude: Sequences) -> np.ndarray:
    """(rows, K) most popular items without those excluded in each row."""
    depth = min(len(counts), K + int(exclude.lengths.max(initial=0)))
    popular = top_k(counts[None, :].astype(np.float64), None, depth)[0]
    result = np.full((len(exclude), K), -1, np.int32)
    for row, excluded in enumerate(exclude):
        new = popular[~np.isin(popular, excluded)][:K]
        result[row, : len(new)] = new
    return result


def _labels(items: pa.Table, name: str) -> np.ndarray:
    """Integer label of each value, by its text form; missing values are a label of their own."""
    if name not in items.column_names:
        raise DataError(
            f"evaluate.category_column names the column '{name}', but items have: {', '.join(items.column_names)}"
        )
    text = pa.array([str(value) for value in items[name].to_pylist()])
    return pc.index_in(text, value_set=pc.unique(text)).to_numpy(zero_copy_only=False).astype(np.int64)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
