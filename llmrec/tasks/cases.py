"""Cases: whom an example is about, which item, and which history came before it. Numbers only, no text yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from llmrec.recipe import Tasks
from llmrec.tasks.source import Source

BLOCK = 1 << 16  # events (or items) that are made into examples at once: bounds memory, fixes the shards


@dataclass(frozen=True)
class Cases:
    """What a number of examples are about, each field (cases,) long.

    Attributes:
        users: user numbers, -1 where nobody is concerned.
        items: item numbers, -1 where no item is.
        begins, ends: the history is `train.items[begins:ends]`; empty where they are equal.
        events: the event in `train.items` that the example is about, -1 where none.
        offers: (cases, places) item numbers on offer in the order shown, -1 where a place is empty; None without.
        labels: float32: which offer is right, 1 or 0 for a verdict, the stars of a rating; NaN where nothing is judged.
    """

    users: np.ndarray
    items: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    events: np.ndarray
    labels: np.ndarray
    offers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Cases:
        """Some of the cases, or some of them several times."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})


def _cases(users: np.ndarray, items: np.ndarray, begins: np.ndarray, ends: np.ndarray, events: np.ndarray) -> Cases:
    return Cases(users, items, begins, ends, events, np.full(len(users), np.nan, np.float32))


def blocks(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Cut rows into runs of about `BLOCK` events; a row is never cut.

    Args:
        lengths: (rows,) events of each row.

    Returns:
        (first row, row after the last) of each run.
    """
    run = (np.cumsum(lengths) - lengths) // BLOCK
    starts = np.flatnonzero(np.diff(run, prepend=-1)).tolist()
    return list(zip(starts, [*starts[1:], len(lengths)][: len(starts)], strict=True))


def by_window(source: Source, first: int, last: int, tasks: Tasks, size: int) -> Cases:
    """One case a window of each history, or one for each event with something before it (`positions: all`)."""
    offsets = source.train.offsets[first : last + 1]
    if tasks.positions == "all":
        ends = np.arange(offsets[0], offsets[-1])
        rows = np.repeat(np.arange(last - first), np.diff(offsets))
        rows, ends = rows[ends > offsets[rows]], ends[ends > offsets[rows]]
        begins = np.maximum(offsets[rows], ends - size)
    else:
        rows, starts, stops = window_slices(np.diff(offsets), size, tasks.passes)
        begins, ends = offsets[rows] + starts, offsets[rows] + stops - 1
    return _cases(rows + first, source.train.items[ends].astype(np.int64), begins, ends, ends)


def by_event(source: Source, first: int, last: int, tasks: Tasks, size: int) -> Cases:
    """One case for each event, with what came before it."""
    offsets = source.train.offsets[first : last + 1]
    events = np.arange(offsets[0], offsets[-1])
    rows = np.repeat(np.arange(last - first), np.diff(offsets))
    items = source.train.items[events].astype(np.int64)
    return _cases(rows + first, items, np.maximum(offsets[rows], events - size), events, events)


def by_user(source: Source, first: int, last: int, tasks: Tasks, size: int) -> Cases:
    """One case for each user with a history: the newest part of it."""
    offsets = source.train.offsets[first : last + 1]
    rows = np.flatnonzero(np.diff(offsets))
    ends = offsets[rows + 1]
    none = np.full(len(rows), -1)
    return _cases(rows + first, none, np.maximum(offsets[rows], ends - size), ends, none)


def by_item(source: Source, first: int, last: int, tasks: Tasks, size: int) -> Cases:
    """One case for each item."""
    items = np.arange(first, last)
    none, zero = np.full(len(items), -1), np.zeros(len(items), np.int64)
    return _cases(none, items, zero, zero, none)


def window_slices(lengths: np.ndarray, size: int, times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut histories from their ends into windows of at most size + 1 events, `times` over with other cuts.

    Every event stands in `times` windows (fewer at the very ends); windows of one event teach nothing and are left out.

    Args:
        lengths: (rows,) events of each history.
        size: items before a window's last.
        times: turns, each cutting at other places.

    Returns:
        (windows,) row, start and stop of each; sorted by row, then turn, newest first.
    """
    found = [_turn(lengths - turn * (size + 1) // times, size) for turn in range(times)]
    rows, stops = (np.concatenate([part[place] for part in found]) for place in (0, 1))
    order = np.argsort(rows, kind="stable")
    rows, stops = rows[order], stops[order]
    return rows, np.maximum(0, stops - size - 1), stops


def _turn(last: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows,) row and stop of the windows of one turn, whose newest window stops at `last`."""
    counts = np.where(last >= 2, (last - 2) // (size + 1) + 1, 0)
    rows = np.repeat(np.arange(len(last)), counts)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, last[rows] - place * (size + 1)


def ragged(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Many ranges as one flat array.

    Returns:
        (rows + 1,) offsets and (sum of lengths,) the numbers begins[0] … ends[0]-1, begins[1] …
    """
    lengths = ends - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets, np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)


def copies(rows: int, weight: float, draw: np.random.Generator) -> np.ndarray:
    """Row numbers, each as often as the weight says: its whole part, and once more with its fraction as the chance."""
    times = int(weight) + (draw.random(rows) < weight - int(weight)).astype(np.int64)
    return np.repeat(np.arange(rows), times)


def numbered(lists: Iterator[np.ndarray]) -> np.ndarray:
    """Stack rows of unequal length, -1 where a row has ended."""
    rows = list(lists)
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
