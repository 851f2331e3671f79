"""Which items one request may be given: deny some (those seen), allow a few, or allow a large named set.

An allowed prefix is one with items left under it, and a prefix is a range of sorted positions, so everything here comes
down to counting items in ranges: by binary search for a handful, by prefix sums for a large set.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmrec.errors import RequestError
from llmrec.indexing.trie import ROOT, Trie


class Subset:
    """A large named set of items (a category, what is in stock): prefix sums, made once and shared by many requests."""

    def __init__(self, trie: Trie, mask: np.ndarray) -> None:
        """Count the allowed items of an (items,) bool mask by item number, up to each sorted position."""
        if mask.shape != (len(trie),) or mask.dtype != bool:
            raise RequestError(
                f"A subset is a bool for each of the {len(trie)} items, not {mask.dtype} of shape {mask.shape}: "
                "pass a (items,) bool array in the order of items.parquet."
            )
        self.before = np.zeros(len(trie) + 1, np.int32)
        np.cumsum(mask[trie.order], out=self.before[1:])

    def has(self, positions: np.ndarray) -> np.ndarray:
        """(n,) bool, whether the item at each sorted position belongs."""
        return self.before[positions + 1] > self.before[positions]


@dataclass(frozen=True)
class Filter:
    """What one row may be given. Make it with `Filter.of`.

    Attributes:
        deny: (n,) sorted positions never given.
        allow: None for every item, else (n,) sorted positions, the only ones given; denied ones already left out.
        subset: None, or a large set, the only items given; `deny` lies within it.
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
        """A filter from item numbers.

        Args:
            deny: item numbers never given, e.g. those already seen.
            allow: item numbers, the only ones given; or a `Subset` made once; or an (items,) bool mask, made into one.

        Raises:
            RequestError: an item number that the catalogue does not have.
        """
        denied = _positions(trie, deny, "deny")
        if isinstance(allow, np.ndarray) and allow.dtype == bool:
            allow = Subset(trie, allow)
        if isinstance(allow, Subset):
            return cls(denied[allow.has(denied)], None, allow)
        if allow is None:
            return cls(denied)
        return cls(np.zeros(0, np.int64), np.setdiff1d(_positions(trie, allow, "allow"), denied, assume_unique=True))


def _positions(trie: Trie, items: Sequence[int] | np.ndarray, what: str) -> np.ndarray:
    """(n,) int64 sorted, distinct positions of item numbers."""
    numbers = np.asarray(items, np.int64).reshape(-1)
    unknown = (numbers < 0) | (numbers >= len(trie))
    if unknown.any():
        raise RequestError(
            f"`{what}` names item {int(numbers[unknown][0])} (and {int(unknown.sum()) - 1} others), but the "
            f"catalogue has items 0 to {len(trie) - 1}: leave unknown items out, or add them to the catalogue first."
        )
    return np.unique(trie.position[numbers]).astype(np.int64)


FilterList = Sequence[Filter | None] | None
"""A filter for each prompt, None where every item is allowed; or None where there are no filters."""


class Filters:
    """The filters of a batch, counted together."""

    def __init__(self, trie: Trie, filters: FilterList, rows: int) -> None:
        """Compile one filter a row; a RequestError where there are more or fewer."""
        if filters is not None and len(filters) != rows:
            raise RequestError(f"{len(filters)} filters for {rows} prompts: pass one each, None where all is allowed.")
        given = list(filters or [None] * rows)
        self.trie, self.items = trie, len(trie)
        self.deny = self._keys([f.deny if f else None for f in given])
        self.allow = self._keys([f.allow if f else None for f in given])
        self.handful = np.array([f is not None and f.allow is not None for f in given], bool)
        self.any = any(f is not None for f in given)
        subsets = [f.subset if f else None for f in given]
        self.subsets = list(dict.fromkeys(subset for subset in subsets if subset))
        self.subset_of = np.array([self.subsets.index(one) if one else -1 for one in subsets], np.int64)

    def _keys(self, positions: list[np.ndarray | None]) -> np.ndarray:
        """Positions of all rows in one sorted array, row by row, so that one binary search serves the whole batch."""
        keys = [row * self.items + at for row, at in enumerate(positions) if at is not None]
        return np.concatenate([np.zeros(0, np.int64), *keys])

    def count(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(n,) items that each row may still be given among sorted positions start..stop - 1."""
        left = self._offered(rows, start, stop)
        if not self.any:
            return left
        low, high = rows.astype(np.int64) * self.items + start, rows.astype(np.int64) * self.items + stop
        left = np.where(self.handful[rows], _between(self.allow, low, high), left) if self.handful.any() else left
        return left - _between(self.deny, low, high) if len(self.deny) else left

    def left(self) -> np.ndarray:
        """(rows,) items that each row may still be given."""
        rows = np.arange(len(self.handful))
        return self.count(rows, np.zeros_like(rows), np.full_like(rows, self.items))

    def without(self, rows: np.ndarray, positions: np.ndarray) -> Filters:
        """The same filters, with sorted positions denied besides: (n,) positions of (n,) rows."""
        still = self.count(rows, positions, positions + 1) > 0
        keys = np.unique(rows[still].astype(np.int64) * self.items + positions[still])
        listed = self.handful[keys // self.items]
        more = copy.copy(self)
        more.__dict__ = {name: value for name, value in vars(self).items() if name not in ("closed", "opened")}
        more.allow, more.deny = np.setdiff1d(self.allow, keys[listed]), np.union1d(self.deny, keys[~listed])
        more.any = True
        return more

    def keep(self, rows: np.ndarray, nodes: np.ndarray, source: np.ndarray, child: np.ndarray) -> np.ndarray:
        """(edges,) bool, whether each child has items left: `count` > 0, by looking up listed nodes, not children.

        Args:
            rows, nodes: (n,) inner nodes of the trie, and the row that each belongs to.
            source, child: (edges,) all children of the nodes, and which of these each is of; see `Trie.children`.
        """
        keep = np.ones(len(child), bool)
        for number, subset in enumerate(self.subsets):
            mine = np.flatnonzero((self.subset_of[rows] == number)[source])
            keep[mine] = subset.before[self.trie.stop[child[mine]]] > subset.before[self.trie.start[child[mine]]]
        if self.handful.any():
            keep[self.handful[rows][source]] = False
            keep[self._edges(self.opened, rows, nodes)] = True
        keep[self._edges(self.closed, rows, nodes)] = False
        return keep

    @cached_property
    def opened(self) -> np.ndarray:
        """(n,) int64 keys, sorted, of the nodes above an item of a handful: row * nodes + node."""
        row, position = np.divmod(self.allow, self.items)
        node, above = self.trie.leaf[position].astype(np.int64), []
        while len(node):
            above.append(row * len(self.trie.start) + node)
            row, node = row[node > ROOT], self.trie.parent[node[node > ROOT]]
        return np.unique(np.concatenate(above)) if above else self.allow

    @cached_property
    def closed(self) -> np.ndarray:
        """(n,) int64 keys, sorted, of the nodes that denying left nothing under: row * nodes + node.

        Level by level from below, since a node is closed where all that its row was offered under it is closed.
        """
        nodes = len(self.trie.start)
        row, position = np.divmod(self.deny, self.items)
        leaf = self.trie.leaf[position].astype(np.int64)
        depth, leaf_keys, below = self.trie.depth_of(leaf), row * nodes + leaf, self.deny[:0]
        found = [below]
        for level in range(self.trie.depth if len(leaf) else 0, 0, -1):
            below = np.sort(np.concatenate([below, leaf_keys[depth == level]]), kind="stable")  # runs in order
            found.append(below)
            row, node = np.divmod(below, nodes)
            above = row * nodes + self.trie.parent[node]
            first = np.flatnonzero(np.diff(above, prepend=-1))
            closed = np.add.reduceat(self._under(below), first) if len(first) else first
            below = above[first][closed == self._under(above[first])]
        return np.sort(np.concatenate(found), kind="stable")

    def _under(self, keys: np.ndarray) -> np.ndarray:
        """(n,) items offered under each node, denied ones counted too."""
        row, node = np.divmod(keys, len(self.trie.start))
        return self._offered(row, self.trie.start[node], self.trie.stop[node])

    def _edges(self, keys: np.ndarray, rows: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """(listed nodes that are children of the nodes,) the edge that leads to each, numbered as in `keep`."""
        base = rows.astype(np.int64) * len(self.trie.start)
        first, last = self.trie.first_child[nodes], self.trie.first_child[nodes + 1]
        low, high = np.searchsorted(keys, np.stack([base + first, base + last]))
        counts = high - low
        which = np.repeat(np.arange(len(nodes)), counts)
        listed = keys[np.arange(len(which)) + np.repeat(low - (np.cumsum(counts) - counts), counts)]
        before = np.cumsum(last - first) - last - base  # edges are numbered through
        return listed + before[which]

    def _offered(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(n,) int64 items in a range, of the row's subset where it has one; other filters are not counted."""
        offered = (stop - start).astype(np.int64)
        for number, subset in enumerate(self.subsets):
            mine = self.subset_of[rows] == number
            offered[mine] = subset.before[stop[mine]] - subset.before[start[mine]]
        return offered

    def first(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(n,) int64 lowest sorted position in start..stop - 1 that each row may be given; there must be one."""
        low, high = start.astype(np.int64), stop.astype(np.int64) - 1
        while self.any and (low < high).any():
            middle = (low + high) // 2
            found = self.count(rows, low, middle + 1) > 0
            low, high = np.where(found | (low == high), low, middle + 1), np.where(found, middle, high)
        return low


def _between(keys: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(n,) how many of the sorted keys lie in low..high - 1."""
    return np.searchsorted(keys, high) - np.searchsorted(keys, low)
