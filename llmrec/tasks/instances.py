"""Task instances: the user, item, history and candidates of each example, as numbers, before any text is rendered."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from llmrec.recipe import Tasks
from llmrec.tasks.inputs import TaskInputs

BLOCK = 1 << 16  # events (or items) per shard; bounds memory


@dataclass(frozen=True)
class Instances:
    """A batch of task instances; each field has one row per instance.

    Attributes:
        users: user numbers; -1 for tasks without a user.
        items: item numbers; -1 for tasks without an item.
        begins, ends: the history is `train.items[begins:ends]`; empty if they are equal.
        events: index of the instance's event in `train.items`; -1 if it has none.
        labels: float32: index of the right candidate, 1 or 0 for yes or no, the rating; NaN without a label.
        candidates: (instances, candidates) item numbers in the order shown, padded with -1; None without candidates.
    """

    users: np.ndarray
    items: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    events: np.ndarray
    labels: np.ndarray
    candidates: np.ndarray | None = None

    @classmethod
    def of(
        cls, users: np.ndarray, items: np.ndarray, begins: np.ndarray, ends: np.ndarray, events: np.ndarray
    ) -> Instances:
        """Instances without labels and candidates."""
        return cls(users, items, begins, ends, events, np.full(len(users), np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Instances:
        """Select rows; a row may be repeated."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})


def split_blocks(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Group consecutive rows into blocks of about `BLOCK` events; a row is never split.

    Args:
        lengths: (rows,) events of each row.

    Returns:
        (first row, row after the last) of each block.
    """
    block = (np.cumsum(lengths) - lengths) // BLOCK
    starts = np.flatnonzero(np.diff(block, prepend=-1)).tolist()
    return list(zip(starts, [*starts[1:], len(lengths)][: len(starts)], strict=True))


def by_window(inputs: TaskInputs, first: int, last: int, tasks: Tasks, size: int) -> Instances:
    """One instance per history window, or with `positions: all` one per event that has a history.

    Args:
        first, last: rows (users or items) of the shard.
        size: items of a history, at most; the other `by_…` functions take the same arguments.
    """
    offsets = inputs.train.offsets[first : last + 1]
    if tasks.positions == "all":
        ends = np.arange(offsets[0], offsets[-1])
        rows = np.repeat(np.arange(last - first), np.diff(offsets))
        rows, ends = rows[ends > offsets[rows]], ends[ends > offsets[rows]]
        begins = np.maximum(offsets[rows], ends - size)
    else:
        rows, starts, stops = window_slices(np.diff(offsets), size, tasks.passes)
        begins, ends = offsets[rows] + starts, offsets[rows] + stops - 1
    return Instances.of(rows + first, inputs.train.items[ends].astype(np.int64), begins, ends, ends)


def by_event(inputs: TaskInputs, first: int, last: int, tasks: Tasks, size: int) -> Instances:
    """One instance per event, with the history before it."""
    offsets = inputs.train.offsets[first : last + 1]
    events = np.arange(offsets[0], offsets[-1])
    rows = np.repeat(np.arange(last - first), np.diff(offsets))
    items = inputs.train.items[events].astype(np.int64)
    return Instances.of(rows + first, items, np.maximum(offsets[rows], events - size), events, events)


def by_user(inputs: TaskInputs, first: int, last: int, tasks: Tasks, size: int) -> Instances:
    """One instance per user with a history: the newest part of it."""
    offsets = inputs.train.offsets[first : last + 1]
    rows = np.flatnonzero(np.diff(offsets))
    ends = offsets[rows + 1]
    none = np.full(len(rows), -1)
    return Instances.of(rows + first, none, np.maximum(offsets[rows], ends - size), ends, none)


def by_item(inputs: TaskInputs, first: int, last: int, tasks: Tasks, size: int) -> Instances:
    """One instance per item."""
    items = np.arange(first, last)
    none, zero = np.full(len(items), -1), np.zeros(len(items), np.int64)
    return Instances.of(none, items, zero, zero, none)


def window_slices(lengths: np.ndarray, size: int, passes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut histories, from their ends, into windows of at most size + 1 events; each pass shifts the cuts.

    Every event is in `passes` windows, fewer near the ends of a history. Windows of one event are left out.

    Args:
        lengths: (rows,) events of each history.
        size: events of a window before its last.
        passes: number of passes.

    Returns:
        (windows,) row, start and stop of each; sorted by row, then pass, newest first.
    """
    windows = [_one_pass(lengths - number * (size + 1) // passes, size) for number in range(passes)]
    rows, stops = (np.concatenate([part[index] for part in windows]) for index in (0, 1))
    order = np.argsort(rows, kind="stable")
    rows, stops = rows[order], stops[order]
    return rows, np.maximum(0, stops - size - 1), stops


def _one_pass(last: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows,) row and stop of the windows of one pass; the newest window of each row stops at `last`."""
    counts = np.where(last >= 2, (last - 2) // (size + 1) + 1, 0)
    rows = np.repeat(np.arange(len(last)), counts)
    index = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, last[rows] - index * (size + 1)


def concat_ranges(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate integer ranges.

    Returns:
        (rows + 1,) offsets, and (sum of lengths,) the numbers begins[0] … ends[0]-1, begins[1] …
    """
    lengths = ends - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets, np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)


def repeat_by_weight(rows: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    """Repeat row numbers by a weight: floor(weight) times, and once more with the fraction as probability."""
    times = int(weight) + (rng.random(rows) < weight - int(weight)).astype(np.int64)
    return np.repeat(np.arange(rows), times)


class NegativeSampler:
    """Samples wrong candidates for a user: items that are not in the user's training part.

    Held-out items may be sampled as well; excluding them would reveal them.
    """

    def __init__(self, inputs: TaskInputs, by_popularity: bool, counts: np.ndarray | None = None) -> None:
        """Sample uniformly, or proportionally to training events plus one.

        Args:
            counts: (items,) training events of each item; counted in `inputs` if None.
        """
        self.inputs, self.by_popularity, self.counts = inputs, by_popularity, counts

    @cached_property
    def _cumulative(self) -> np.ndarray:
        counts = np.bincount(self.inputs.train.items, minlength=self.inputs.n_items)
        weights = (counts if self.counts is None else self.counts) + 1.0
        return np.cumsum(weights) / weights.sum()

    def sample(self, user: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `count` distinct item numbers, or fewer if the user has no more unseen items."""
        seen = np.unique(self.inputs.train[user])
        if self.inputs.n_items - len(seen) <= 4 * count:
            return rng.permutation(np.setdiff1d(np.arange(self.inputs.n_items), seen))[:count]
        negatives = np.zeros(0, np.int64)
        while len(negatives) < count:
            more = np.concatenate([negatives, self._draw(2 * count, rng)])
            distinct = more[np.sort(np.unique(more, return_index=True)[1])]
            negatives = distinct[~np.isin(distinct, seen)]
        return negatives[:count]

    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        if self.by_popularity:
            last = self.inputs.n_items - 1
            return np.searchsorted(self._cumulative, rng.random(count), side="right").clip(max=last)
        return rng.integers(self.inputs.n_items, size=count)


def add_candidates(instances: Instances, count: int, sampler: NegativeSampler, rng: np.random.Generator) -> Instances:
    """Add `count` candidates to each instance: its item at a random position among negatives; label it."""
    labels = np.zeros(len(instances), np.float32)
    candidates = np.full((len(instances), count), -1, np.int64)
    for row, (user, item) in enumerate(zip(instances.users.tolist(), instances.items.tolist(), strict=True)):
        negatives = sampler.sample(user, count - 1, rng)
        labels[row] = position = int(rng.integers(len(negatives) + 1))
        candidates[row, : len(negatives) + 1] = np.insert(negatives, position, item)
    return replace(instances, candidates=candidates, labels=labels)


def add_verdicts(instances: Instances, sampler: NegativeSampler, rng: np.random.Generator) -> Instances:
    """Replace the items of a random half of the instances by negatives; label own items 1, negatives 0."""
    items, labels = instances.items.copy(), np.ones(len(instances), np.float32)
    for row in np.flatnonzero(rng.random(len(instances)) < 0.5).tolist():
        negatives = sampler.sample(int(instances.users[row]), 1, rng)
        if len(negatives):  # empty for a user who has every item
            items[row], labels[row] = negatives[0], 0.0
    return replace(instances, items=items, labels=labels, events=np.where(labels == 0, -1, instances.events))
