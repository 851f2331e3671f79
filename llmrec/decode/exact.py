"""Exact scoring: the log-probability of every item, so that small catalogues are ranked with nothing lost.

The whole trie hangs on the prompt as one tree of query positions, walked in chunks that fit a memory budget. Within a
chunk a node attends to the prompt and to its own ancestors, so each prefix is computed once, not once an item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llmrec.decode.filters import Filter, Filters
from llmrec.decode.scorer import Branches, Logits, Scorer
from llmrec.decode.search import Normalise, check_normalise
from llmrec.indexing.trie import ROOT, Trie

WIDEST = 512  # nodes a pass; past this, attention between unrelated nodes costs more than a bigger pass saves


def score_all(
    scorer: Scorer,
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    normalise: Normalise = "catalogue",
    filters: Sequence[Filter | None] | None = None,
    memory: int = 2**30,
) -> np.ndarray:
    """Log-probability of every item after every prompt.

    Args:
        token_ids: (n_symbols,) the model's token of each symbol.
        prompts: token ids of each row; lengths may differ.
        normalise: as in `beam_search`, whose scores these are.
        filters: what each row may be given; None allows every item.
        memory: bytes that one pass may take, roughly, beside the model; the walk is cut into chunks to fit.

    Returns:
        (rows, items) float32 in nats, by item number; -inf where a filter denies the item.

    Raises:
        RequestError: unknown `normalise`, not one filter a prompt, an empty or too long prompt.
        ModelError: a token of the codes that the model does not have.
    """
    check_normalise(normalise)
    rows, sieve = len(prompts), Filters(trie, filters, len(prompts))
    masked = sieve if normalise == "allowed" else Filters(trie, None, rows)  # filters that change probabilities
    state = scorer.prefill(prompts, token_ids, trie.depth, normalise == "vocabulary")
    ranking = score_nodes(scorer, trie, state, normalise, masked, memory)[:, trie.leaf[trie.position]]
    ranking[_denied(sieve, trie, rows)] = -np.inf
    return ranking


def score_nodes(
    scorer: Scorer,
    trie: Trie,
    state: Branches,
    normalise: Normalise,
    filters: Filters | None = None,
    memory: int = 2**30,
) -> np.ndarray:
    """Log-probability of every prefix of a code after every prompt; other arguments and errors are `score_all`'s.

    Args:
        state: fresh from `prefill`, with the whole vocabulary where `normalise` asks for it; left as it was.
        filters: those that change probabilities; None for none.

    Returns:
        (rows, nodes) float32 in nats, 0 at the root.
    """
    rows = len(state.lengths)
    filters = filters or Filters(trie, None, rows)
    scores = np.zeros((rows, len(trie.start)), np.float32)
    _score_children(trie, filters, np.array([ROOT]), state.logits, scores)
    slots = state.sees.shape[2] + WIDEST
    width = min(WIDEST, memory // max(1, rows * scorer.bytes_per_query(slots, len(state.token_ids))))
    for nodes in _chunks(trie, _open(trie, normalise), max(1, width)):
        logits = scorer.tree(state, trie.symbol[nodes], trie.depth_of(nodes), _above(trie, nodes))
        _score_children(trie, filters, nodes, logits, scores)
    return sum_paths(trie, scores)


def sum_paths(trie: Trie, scores: np.ndarray) -> np.ndarray:
    """Log-probability of every node, from that of each given its parent.

    Args:
        trie: of the nodes.
        scores: (rows, nodes) in nats, 0 at the root; changed in place.

    Returns:
        `scores`.
    """
    for first, last in zip(trie.level[1:-1], trie.level[2:], strict=True):
        scores[:, first:last] += scores[:, trie.parent[first:last]]
    return scores


def _denied(sieve: Filters, trie: Trie, rows: int) -> np.ndarray:
    """(rows, items) bool, by item number, whether a row's filter takes the item out."""
    if not sieve.any:
        return np.zeros((rows, len(trie)), bool)
    at = np.tile(trie.position, rows)
    return (sieve.count(np.repeat(np.arange(rows), len(trie)), at, at + 1) == 0).reshape(rows, -1)


def _open(trie: Trie, normalise: Normalise) -> np.ndarray:
    """(n,) nodes below the root whose children the model must be asked about, depth first."""
    inner = ~trie.is_leaf(np.arange(len(trie.start)))
    if normalise != "vocabulary":  # what follows a prefix of one item is certain
        inner &= trie.stop - trie.start > 1
    nodes = np.flatnonzero(inner)[1:] if inner[ROOT] else np.flatnonzero(inner)
    return nodes[np.lexsort((nodes, trie.start[nodes]))]


def _chunks(trie: Trie, nodes: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Cut the walk into chunks of about `width` nodes, each with the ancestors that an earlier chunk had."""
    for begin in range(0, len(nodes), width):
        chunk, ancestors = nodes[begin : begin + width], []
        node = trie.parent[chunk[0]]
        while node != ROOT:
            ancestors.append(node)
            node = trie.parent[node]
        yield np.concatenate([np.array(ancestors[::-1], np.int64), chunk])


def _above(trie: Trie, nodes: np.ndarray) -> np.ndarray:
    """(n, n) bool, whether the second node is the first or an ancestor of it."""
    start, stop = trie.start[nodes], trie.stop[nodes]
    inside = (start[None] <= start[:, None]) & (stop[:, None] <= stop[None])
    return inside & (nodes[None] <= nodes[:, None])  # a chain of only children has one range; numbers grow with depth


def _score_children(trie: Trie, sieve: Filters, nodes: np.ndarray, logits: Logits, scores: np.ndarray) -> None:
    """Write into `scores` (rows, nodes) the log-probability of each child of some nodes, given its parent."""
    rows = len(scores)
    source, symbol, child = trie.children(nodes)
    values = logits.grid(source, symbol)
    if sieve.any:
        count = sieve.count(
            np.repeat(np.arange(rows), len(child)), np.tile(trie.start[child], rows), np.tile(trie.stop[child], rows)
        )
        values[count.reshape(rows, -1) == 0] = -np.inf
    if logits.total is not None:
        scores[:, child] = values - logits.totals()[:, source]
        return
    first = np.flatnonzero(np.diff(source, prepend=-1))
    top = np.maximum.reduceat(values, first, axis=1)
    top[np.isneginf(top)] = 0
    with np.errstate(divide="ignore"):
        total = top + np.log(np.add.reduceat(np.exp(values - top[:, source]), first, axis=1))
    scores[:, child] = np.where(
        np.isneginf(values), -np.inf, values - np.where(np.isneginf(total), 0, total)[:, source]
    )
