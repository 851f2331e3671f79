"""Filters: which items may be recommended for a request (a deny list, an allow list, or a large allowed subset).

A prefix is allowed if allowed items remain under it. A prefix is a range of sorted positions, so every check counts
items in ranges: by binary search for lists, by prefix sums for a subset.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import ROOT, Trie


class Subset:
    """A large set of items (a category, items in stock) as prefix sums, computed once and shared by many requests."""

    def __init__(self, trie: Trie, mask: np.ndarray) -> None:
        """Compute prefix sums, over sorted positions, of an (items,) bool mask by item number."""
        if mask.shape != (len(trie),) or mask.dtype != bool:
            raise RequestError(
                f"A subset has a bool for each of the {len(trie)} items, not {mask.dtype} of shape {mask.shape}: "
                "pass a (items,) bool array in the order of items.parquet."
            )
        self.before = np.zeros(len(trie) + 1, np.int32)
        np.cumsum(mask[trie.order], out=self.before[1:])

    def contains(self, positions: np.ndarray) -> np.ndarray:
        """(n,) bool, whether the item at each sorted position belongs to the subset."""
        return self.before[positions + 1] > self.before[positions]


@dataclass(frozen=True)
class Filter:
    """Allowed items of one row, made by `Filter.of`.

    Attributes:
        deny: (n,) sorted positions that are never returned.
        allow: None for every item, else (n,) sorted positions, the only ones returned; denied ones are already removed.
        subset: None, or the only items returned; `deny` lies within it.
    """

    deny: np.ndarray
    allow: np.ndarray | None = None
    subset: Subset | None = None

    @classmethod
    def of(
        cls,
        trie: Trie,
        deny: Sequence[int] | np.ndarray = (),
        allow: Sequence[int] | np.ndarray | Subset | None = None,
    ) -> Filter:
        """Make a filter from item numbers.

        Args:
            deny: item numbers that are never returned, e.g. those of the history.
            allow: item numbers, the only ones returned; or a `Subset`; or an (items,) bool mask, turned into one.

        Raises:
            RequestError: an item number that the catalogue does not have.
        """
        denied = _positions(trie, deny, "deny")
        if isinstance(allow, np.ndarray) and allow.dtype == bool:
            allow = Subset(trie, allow)
        if isinstance(allow, Subset):
            return cls(denied[allow.contains(denied)], None, allow)
        if allow is None:
            return cls(denied)
        return cls(np.zeros(0, np.int64), np.setdiff1d(_positions(trie, allow, "allow"), denied, assume_unique=True))


def _positions(trie: Trie, items: Sequence[int] | np.ndarray, argument: str) -> np.ndarray:
    """(n,) int64 sorted, distinct positions of item numbers."""
    numbers = np.asarray(items, np.int64).reshape(-1)
    unknown = (numbers < 0) | (numbers >= len(trie))
    if unknown.any():
        raise RequestError(
            f"`{argument}` names item {int(numbers[unknown][0])} (and {int(unknown.sum()) - 1} others), but the "
            f"catalogue has items 0 to {len(trie) - 1}: leave unknown items out, or add them to the catalogue first."
        )
    return np.unique(trie.position[numbers]).astype(np.int64)


FilterList = Sequence[Filter | None] | None
"""One filter per prompt, None where every item is allowed; or None for no filters."""


class BatchFilters:
    """The filters of a batch, in arrays over all rows."""

    def __init__(self, trie: Trie, filters: FilterList, rows: int) -> None:
        """Compile one filter per row; a RequestError for another number of filters."""
        if filters is not None and len(filters) != rows:
            raise RequestError(f"{len(filters)} filters for {rows} prompts: pass one each, None where all is allowed.")
        row_filters = list(filters or [None] * rows)
        self.trie, self.items = trie, len(trie)
        self.deny = self._keys([f.deny if f else None for f in row_filters])
        self.allow = self._keys([f.allow if f else None for f in row_filters])
        self.has_allow_list = np.array([f is not None and f.allow is not None for f in row_filters], bool)
        self.any = any(f is not None for f in row_filters)
        subsets = [f.subset if f else None for f in row_filters]
        self.subsets = list(dict.fromkeys(subset for subset in subsets if subset))
        self.subset_of = np.array([self.subsets.index(subset) if subset else -1 for subset in subsets], np.int64)

    def _keys(self, positions: list[np.ndarray | None]) -> np.ndarray:
        """Keys row * items + position of all rows in one sorted array, so that one binary search serves the batch."""
        keys = [row * self.items + each for row, each in enumerate(positions) if each is not None]
        return np.concatenate([np.zeros(0, np.int64), *keys])

    def count_allowed(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(n,) allowed items of each row among sorted positions start..stop - 1."""
        allowed = self._count_before_deny(rows, start, stop)
        if not self.any:
            return allowed
        low, high = rows.astype(np.int64) * self.items + start, rows.astype(np.int64) * self.items + stop
        if self.has_allow_list.any():
            allowed = np.where(self.has_allow_list[rows], _count_between(self.allow, low, high), allowed)
        return allowed - _count_between(self.deny, low, high) if len(self.deny) else allowed

    def n_allowed(self) -> np.ndarray:
        """(rows,) allowed items of each row."""
        rows = np.arange(len(self.has_allow_list))
        return self.count_allowed(rows, np.zeros_like(rows), np.full_like(rows, self.items))

    def deny_more(self, rows: np.ndarray, positions: np.ndarray) -> BatchFilters:
        """Return these filters with further items denied: (n,) sorted positions of (n,) rows."""
        allowed = self.count_allowed(rows, positions, positions + 1) > 0
        keys = np.unique(rows[allowed].astype(np.int64) * self.items + positions[allowed])
        listed = self.has_allow_list[keys // self.items]
        new = copy.copy(self)
        for cached in ("allowed_nodes", "denied_nodes"):
            new.__dict__.pop(cached, None)
        new.allow, new.deny = np.setdiff1d(self.allow, keys[listed]), np.union1d(self.deny, keys[~listed])
        new.any = True
        return new

    def keep_children(self, rows: np.ndarray, nodes: np.ndarray, source: np.ndarray, child: np.ndarray) -> np.ndarray:
        """(edges,) bool, whether each child has allowed items; looks up listed nodes instead of counting per child.

        Args:
            rows, nodes: (n,) inner nodes of the trie, and the row of each.
            source, child: (edges,) all children of the nodes, and the index of their parent; see `Trie.children`.
        """
        keep = np.ones(len(child), bool)
        for number, subset in enumerate(self.subsets):
            edges = np.flatnonzero((self.subset_of[rows] == number)[source])
            start, stop = self.trie.start[child[edges]], self.trie.stop[child[edges]]
            keep[edges] = subset.before[stop] > subset.before[start]
        if self.has_allow_list.any():
            keep[self.has_allow_list[rows][source]] = False
            keep[self._edges(self.allowed_nodes, rows, nodes)] = True
        keep[self._edges(self.denied_nodes, rows, nodes)] = False
        return keep

    @cached_property
    def allowed_nodes(self) -> np.ndarray:
        """(n,) int64 sorted keys row * nodes + node of the nodes above an item of an allow list."""
        row, position = np.divmod(self.allow, self.items)
        node, above = self.trie.leaf[position].astype(np.int64), []
        while len(node):
            above.append(row * len(self.trie.start) + node)
            row, node = row[node > ROOT], self.trie.parent[node[node > ROOT]]
        return np.unique(np.concatenate(above)) if above else self.allow

    @cached_property
    def denied_nodes(self) -> np.ndarray:
        """(n,) int64 sorted keys row * nodes + node of the nodes under which every item is denied.

        Computed level by level from the leaves: a node is denied where everything under it is.
        """
        nodes = len(self.trie.start)
        row, position = np.divmod(self.deny, self.items)
        leaf = self.trie.leaf[position].astype(np.int64)
        depth, leaf_keys, below = self.trie.depth_of(leaf), row * nodes + leaf, self.deny[:0]
        levels = [below]
        for level in range(self.trie.depth if len(leaf) else 0, 0, -1):
            below = np.sort(np.concatenate([below, leaf_keys[depth == level]]), kind="stable")  # runs in order
            levels.append(below)
            row, node = np.divmod(below, nodes)
            above = row * nodes + self.trie.parent[node]
            first = np.flatnonzero(np.diff(above, prepend=-1))
            denied = np.add.reduceat(self._count_under(below), first) if len(first) else first
            below = above[first][denied == self._count_under(above[first])]
        return np.sort(np.concatenate(levels), kind="stable")

    def _count_under(self, keys: np.ndarray) -> np.ndarray:
        """(n,) items under each node, denied ones included."""
        row, node = np.divmod(keys, len(self.trie.start))
        return self._count_before_deny(row, self.trie.start[node], self.trie.stop[node])

    def _edges(self, keys: np.ndarray, rows: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Edge, numbered as in `keep_children`, to each listed node that is a child of the nodes."""
        base = rows.astype(np.int64) * len(self.trie.start)
        first, last = self.trie.first_child[nodes], self.trie.first_child[nodes + 1]
        low, high = np.searchsorted(keys, np.stack([base + first, base + last]))
        counts = high - low
        parent = np.repeat(np.arange(len(nodes)), counts)
        listed = keys[np.arange(len(parent)) + np.repeat(low - (np.cumsum(counts) - counts), counts)]
        offset = np.cumsum(last - first) - last - base  # edges are numbered across all nodes
        return listed + offset[parent]

    def _count_before_deny(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(n,) int64 items in a range, of the row's subset where it has one; lists are ignored."""
        counts = (stop - start).astype(np.int64)
        for number, subset in enumerate(self.subsets):
            of_subset = self.subset_of[rows] == number
            counts[of_subset] = subset.before[stop[of_subset]] - subset.before[start[of_subset]]
        return counts

    def first_allowed(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(n,) int64 lowest allowed position of each row in start..stop - 1; there must be one."""
        low, high = start.astype(np.int64), stop.astype(np.int64) - 1
        while self.any and (low < high).any():
            middle = (low + high) // 2
            in_lower = self.count_allowed(rows, low, middle + 1) > 0
            low, high = np.where(in_lower | (low == high), low, middle + 1), np.where(in_lower, middle, high)
        return low


def _count_between(keys: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(n,) number of sorted keys in low..high - 1."""
    return np.searchsorted(keys, high) - np.searchsorted(keys, low)


def item_numbers(catalogue: Catalogue, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
    """Item numbers of the known ids, and the unknown ids."""
    ids, known = list(item_ids), catalogue.item_number
    return [known[each] for each in ids if each in known], [each for each in ids if each not in known]


def list_unknown(catalogue: Catalogue, unknown: Sequence[str]) -> str:
    """Up to five unknown item ids for a message, with the known id that is closest to the first."""
    near = difflib.get_close_matches(unknown[0], catalogue.item_ids[:100_000], 1, 0.7)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return ", ".join(f"'{each}'" for each in unknown[:5]) + ("…" if len(unknown) > 5 else ".") + hint
