"""The leak check: a fitted component must be the same to the byte when the held-out events are others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.dataset import Dataset
from llmrec.files import hash_bytes, hash_file, hash_folder
from llmrec.seed import stream


def assert_no_future(component: Callable[[Dataset], Any], dataset: Dataset, seed: int = 0) -> None:
    """Fit a component on a data set and on its twin with other held-out events; the two must not differ by a byte.

    The component returns bytes, text, numbers, an array, a table, the path of a file or folder, or a dict, list or
    tuple of those. `seed` draws the other events.

    Raises:
        AssertionError: the component knows the held-out events.
    """
    twin = perturbed(dataset, seed)
    if not (twin.histories.items != dataset.histories.items).any():
        raise AssertionError("The data set holds out nothing, so a leak could not be seen. Split it first.")
    honest, other = fingerprint(component(dataset)), fingerprint(component(twin))
    if honest != other:
        raise AssertionError(
            f"{getattr(component, '__name__', component)} changes with the held-out events, so it has seen them. "
            'Fit it on dataset.before("valid") alone.'
        )


def perturbed(dataset: Dataset, seed: int = 0) -> Dataset:
    """The same training events; every held-out one has another item, a later time, and other words and ratings."""
    draw, table = stream(seed, "leaks"), dataset.interactions
    held_out = dataset.splits > 0
    shift = draw.integers(1, dataset.n_items, held_out.sum())
    items = dataset.histories.items.astype(np.int64)
    items[held_out] = (items[held_out] + shift) % dataset.n_items
    mask = pa.array(held_out)
    columns = {
        "item_id": dataset.items["item_id"].take(pa.array(items)),
        "timestamp": pc.if_else(mask, pc.add(table["timestamp"], 1_000_000), table["timestamp"]),
    }
    if "rating" in table.column_names:
        other = pc.subtract(pa.scalar(6.0, pa.float32()), table["rating"])
        columns["rating"] = pc.if_else(mask, other, table["rating"])
    for name in {"review", "summary", "explanation"} & set(table.column_names):
        columns[name] = pc.if_else(mask, pa.scalar("words of another event"), table[name])
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return Dataset(table, dataset.items)


def fingerprint(made: Any) -> str:
    """A hash of what a component made; raises TypeError for what `assert_no_future` does not name."""
    if isinstance(made, dict):
        made = list(made.items())
    if isinstance(made, list | tuple):
        return hash_bytes(repr([fingerprint(value) for value in made]).encode())
    if isinstance(made, np.ndarray):
        return hash_bytes(f"{made.dtype}{made.shape}".encode() + np.ascontiguousarray(made).tobytes())
    if isinstance(made, Path):
        return hash_folder(made) if made.is_dir() else hash_file(made)
    if isinstance(made, pa.Table):
        return hash_bytes(repr(made.to_pylist()).encode())
    if isinstance(made, bytes | str | int | float | None):
        return hash_bytes(made if isinstance(made, bytes) else repr(made).encode())
    raise TypeError(f"Cannot compare a {type(made).__name__} to the byte. Return arrays, bytes or a path.")
