"""The item trie: the catalogue sorted by code, so every prefix of a code is a contiguous range of items.

A code is a sequence of symbols 0..n_symbols-1; the caller maps symbols to tokens of a model. Nodes are numbered by
level, node 0 is the empty prefix, and the children of a node are neighbours (compressed sparse rows). The trie is five
arrays without state: what may come next is a function of the symbols so far, so beams may be reordered and serving
slots reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmrec.errors import CodeError

ROOT = 0


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix-free catalogue of codes. Build it with `Trie.build`, not by hand.

    Attributes:
        n_symbols: symbols are 0..n_symbols-1.
        depth: symbols in the longest code.
        order: (items,) int32, item number at each sorted position.
        start: (nodes,) int32, first sorted position under each node.
        stop: (nodes,) int32, one past the last sorted position under each node; stop - start items begin with it.
        first_child: (nodes + 1,) int32; the children of node n are first_child[n]..first_child[n + 1] - 1.
        symbol: (nodes,) unsigned, the symbol that leads into each node (0 at the root).
    """

    n_symbols: int
    depth: int
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    first_child: np.ndarray
    symbol: np.ndarray

    @classmethod
    def build(cls, codes: Sequence[Sequence[int]] | np.ndarray, n_symbols: int) -> Trie:
        """Sort the codes and number their prefixes.

        Args:
            codes: a sequence of symbols for each item, or an (items, levels) integer array padded at the end by -1.
            n_symbols: number of symbols.

        Raises:
            CodeError: no items, an empty code, a symbol out of range, a repeated code, or a code that begins another.
        """
        table = _table(codes)
        lengths = _checked_lengths(table, n_symbols)
        depth = int(lengths.max())
        order = _sort(table[:, :depth], n_symbols)
        dtype = np.min_scalar_type(n_symbols - 1)
        columns = [np.maximum(table[:, level], 0).astype(dtype)[order] for level in range(depth)]  # padding is not read
        return _number(columns, lengths[order], order, n_symbols)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.order)

    @cached_property
    def position(self) -> np.ndarray:
        """(items,) int32, sorted position of each item number: the inverse of `order`."""
        position = np.empty(len(self), np.int32)
        position[self.order] = np.arange(len(self), dtype=np.int32)
        return position

    @cached_property
    def parent(self) -> np.ndarray:
        """(nodes,) int32, the parent of each node; the root is its own parent."""
        return np.concatenate([[0], np.repeat(np.arange(len(self.start)), np.diff(self.first_child))]).astype(np.int32)

    @cached_property
    def level(self) -> np.ndarray:
        """(depth + 2,) int64; nodes of depth d are level[d]..level[d + 1] - 1."""
        bounds = [0, 1]
        while bounds[-1] < len(self.start):
            bounds.append(int(self.first_child[bounds[-1]]))
        return np.array(bounds)

    @cached_property
    def leaf(self) -> np.ndarray:
        """(items,) int32, the node where the code of each sorted position ends."""
        ends = np.flatnonzero(self.first_child[:-1] == self.first_child[1:])
        leaf = np.empty(len(self), np.int32)
        leaf[self.start[ends]] = ends
        return leaf

    def code(self, items: np.ndarray) -> np.ndarray:
        """(n, depth) int32, the symbols of each item's code, padded at the end by -1; all -1 for item -1."""
        items = np.asarray(items)
        node = np.where(items < 0, ROOT, self.leaf[self.position[items]])
        code = np.full((len(node), self.depth), -1, np.int32)
        depth = self.depth_of(node)
        for level in range(self.depth - 1, -1, -1):
            reached = depth > level
            code[reached, level] = self.symbol[node[reached]]
            node = np.where(reached, self.parent[node], node)
        return code

    def depth_of(self, nodes: np.ndarray) -> np.ndarray:
        """(n,) int64, symbols from the root to each node."""
        return np.searchsorted(self.level, nodes, side="right") - 1

    def is_leaf(self, nodes: np.ndarray) -> np.ndarray:
        """(n,) bool, whether each node is a whole code."""
        return self.first_child[nodes] == self.first_child[nodes + 1]

    def item_at(self, nodes: np.ndarray) -> np.ndarray:
        """(n,) int32, the item whose code ends at each node, or -1."""
        return np.where(self.is_leaf(nodes), self.order[self.start[nodes]], -1)

    def children(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All children of (n,) nodes, in the order of the nodes and then of sorted position.

        Returns:
            (edges,) int64 index into the n nodes, (edges,) int64 symbol, (edges,) int64 child node.
        """
        first = self.first_child[nodes].astype(np.int64)
        counts = self.first_child[nodes + 1] - first
        source = np.repeat(np.arange(len(nodes)), counts)
        child = np.arange(len(source)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        return source, self.symbol[child].astype(np.int64), child

    def child(self, nodes: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """(n,) int64, the child of each node by one symbol each; -1 if there is none or the node is -1."""
        parent = np.maximum(nodes, 0)
        low, end = self.first_child[parent].astype(np.int64), self.first_child[parent + 1].astype(np.int64)
        high = end
        while (low < high).any():
            middle = (low + high) // 2
            less = (low < high) & (self.symbol[np.minimum(middle, len(self.symbol) - 1)] < symbols)
            low, high = np.where(less, middle + 1, low), np.where(less | (low >= high), high, middle)
        found = (nodes >= 0) & (low < end)
        found &= self.symbol[np.where(found, low, 0)] == symbols
        return np.where(found, low, -1)


def _table(codes: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """The codes as an (items, levels) integer array padded by -1."""
    if isinstance(codes, np.ndarray) and codes.ndim == 2:
        if not np.issubdtype(codes.dtype, np.integer):
            raise CodeError(f"Codes are {codes.dtype}, but symbols are whole numbers: pass an integer array.")
        return codes.astype(np.int64) if codes.dtype.kind == "u" else codes
    lengths = np.array([len(code) for code in codes], np.int64)
    table = np.full((len(lengths), max(1, lengths.max(initial=1))), -1, np.int64)
    inside = np.arange(table.shape[1]) < lengths[:, None]
    table[inside] = np.fromiter((symbol for code in codes for symbol in code), np.int64, int(lengths.sum()))
    if (table[inside] < 0).any():
        item = int(np.nonzero((inside & (table < 0)).any(1))[0][0])
        raise CodeError(f"The code of item {item} has a negative symbol: symbols count from 0.")
    return table


def _checked_lengths(table: np.ndarray, n_symbols: int) -> np.ndarray:
    """(items,) lengths of the codes; raises CodeError for invalid ones."""
    if not table.size:
        raise CodeError("The catalogue has no items (or no levels), so nothing can be recommended: pass a code.")
    lengths: np.ndarray = np.zeros(len(table), np.int32)
    for level in range(table.shape[1]):
        column = table[:, level]
        bad = (column >= n_symbols) | (column < -1) | ((column >= 0) & (lengths < level))
        if bad.any():
            item = int(np.argmax(bad))
            raise CodeError(
                f"{int(bad.sum())} of {len(table)} codes have a symbol outside 0..{n_symbols - 1} at level {level}, or "
                f"one after padding; the first is item {item}: {table[item].tolist()}. Pad by -1 at the end only, and "
                "give n_symbols as the number of symbols."
            )
        lengths += column >= 0
    if not lengths.all():
        item = int(np.argmin(lengths))
        raise CodeError(
            f"{int((lengths == 0).sum())} of {len(table)} items have an empty code; the first is item {item}. "
            "Give every item at least one symbol, or leave it out of the catalogue."
        )
    return lengths


def _sort(table: np.ndarray, n_symbols: int) -> np.ndarray:
    """(items,) item numbers in the order of their codes; a code sorts before its continuations."""
    base = n_symbols + 1
    words: list[np.ndarray] = []
    room = 0
    for level in range(table.shape[1]):
        if room < base:  # levels are packed into 63-bit words: one word sorts ten times faster than its levels
            words.append(np.zeros(len(table), np.int64))
            room = 2**63 - 1
        words[-1] *= base
        words[-1] += table[:, level]
        words[-1] += 1
        room //= base
    return np.argsort(words[0]) if len(words) == 1 else np.lexsort(words[::-1])


def _number(columns: list[np.ndarray], lengths: np.ndarray, order: np.ndarray, n_symbols: int) -> Trie:
    """Number the prefixes of sorted codes level by level."""
    items = len(order)
    fresh = np.zeros(items, bool)  # whether an item begins another prefix of this level than the item before it
    fresh[0] = True
    starts, stops, symbols = [np.zeros(1, np.int32)], [np.array([items], np.int32)], [columns[0][:1] * 0]
    firsts, total = [], 1
    for level, column in enumerate(columns, start=1):
        fresh[1:] |= column[1:] != column[:-1]
        long_enough = lengths >= level
        fresh |= ~long_enough
        _refuse_shared_ends(fresh, lengths == level, lengths, order)
        start = np.flatnonzero(fresh).astype(np.int32)
        stop = np.append(start[1:], np.int32(items))
        real = long_enough[start]
        start, stop = start[real], stop[real]
        firsts.append(total + np.searchsorted(start, starts[-1]).astype(np.int32))
        total += len(start)
        starts.append(start)
        stops.append(stop)
        symbols.append(column[start])
    firsts.append(np.full(len(starts[-1]) + 1, total, np.int32))
    start, stop, first = (np.concatenate(parts).astype(np.int32, copy=False) for parts in (starts, stops, firsts))
    return Trie(n_symbols, len(columns), order.astype(np.int32), start, stop, first, np.concatenate(symbols))


def _refuse_shared_ends(fresh: np.ndarray, ends: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> None:
    """Raise CodeError if a code is repeated or begins another one."""
    shared = np.flatnonzero(ends[:-1] & ~fresh[1:])
    if not len(shared):
        return
    item, other = int(order[shared[0]]), int(order[shared[0] + 1])
    if lengths[shared[0]] == lengths[shared[0] + 1]:
        raise CodeError(
            f"{len(shared)} of {len(order)} items repeat another item's code (items {item} and {other} are the first), "
            "so they could not be distinguished. Add a level for them: set `indexing.collisions: extra-level`."
        )
    raise CodeError(
        f"{len(shared)} of {len(order)} codes are the beginning of another code (item {item}'s of item {other}'s is "
        "the first), so their ends are ambiguous. End every code with an end symbol, or make all equally long."
    )
