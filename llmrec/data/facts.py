"""A data set in figures for people."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc

from llmrec.data.clean import clean
from llmrec.data.dataset import Dataset
from llmrec.data.sources import read
from llmrec.data.starter import as_plain
from llmrec.errors import DataError
from llmrec.recipe import Data


def cleaned(settings: Data, seed: int) -> tuple[Dataset, str]:
    """What a recipe reads, cleaned and split as a run would, and the unit of its times.

    Raises:
        DataError: see `sources.read` and `clean.clean`.
    """
    raw = read(settings)
    found = clean(raw, settings, seed)
    return Dataset(found.interactions, found.items), raw.unit


def facts(dataset: Dataset, text: list[str], unit: str) -> dict[str, Any]:
    """Name of a figure → the figure.

    Args:
        dataset: cleaned and split.
        text: columns that describe an item.
        unit: of its times, "seconds" or "position".

    Raises:
        DataError: the items have no such column.
    """
    lengths, items = dataset.histories.lengths, dataset.items
    seen = np.bincount(dataset.histories.items, minlength=dataset.n_items)
    lacking = [name for name in text if name not in items.column_names]
    if lacking:
        raise DataError(f"items.text names {', '.join(lacking)}, but items have: {', '.join(items.column_names)}")
    columns = [as_plain(items[name]) for name in text]
    with_text = sum(any(row) for row in zip(*columns, strict=True))
    return {
        "users": len(dataset.histories),
        "items": dataset.n_items,
        "interactions": dataset.interactions.num_rows,
        "density": f"{len(dataset.histories.items) / (len(lengths) * dataset.n_items):.2%}",
        "interactions of a user": _spread(lengths),
        "interactions of an item": _spread(seen),
        "items never seen": int((seen == 0).sum()),
        "users tested": len(np.unique(dataset.cases("test").users)),
        "time": _time_range(dataset) if unit == "seconds" else "the order of the file or source",
        "items with text": f"{with_text} of {dataset.n_items} ({', '.join(text)})",
        "columns of items": ", ".join(items.column_names),
    }


def long_tail(dataset: Dataset) -> list[float]:
    """Shares of all interactions that each tenth of the items has, most popular first; they sum to 1."""
    seen = np.sort(np.bincount(dataset.histories.items, minlength=dataset.n_items))[::-1]
    tenths = np.arange(len(seen)) * 10 // len(seen)
    return [round(float(share), 4) for share in np.bincount(tenths, weights=seen, minlength=10) / seen.sum()]


def _spread(counts: np.ndarray) -> str:
    low, middle, high = np.percentile(counts, [5, 50, 95]).astype(int)
    return f"{middle} in the middle, {low} to {high} for nine in ten, {counts.max()} at most"


def _time_range(dataset: Dataset) -> str:
    ends = pc.min_max(dataset.interactions["timestamp"]).as_py()
    days = [datetime.datetime.fromtimestamp(ends[end], datetime.UTC).date().isoformat() for end in ("min", "max")]
    return " to ".join(days)
