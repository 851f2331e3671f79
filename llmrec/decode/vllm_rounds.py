"""The k best items by rounds of one token, for an engine that only continues prompts: vLLM.

Each round asks for the next symbol of every live beam, as one request whose prompt is the user's prompt and the beam's
prefix; the engine's prefix cache holds what they share. Beams are kept and finished by the functions of `search.py`.
Filters are applied here, so requests carry none, and the engine's probabilities are over the catalogue's children.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from llmrec.decode.filters import Filter, Filters
from llmrec.decode.search import (
    Beams,
    Normalise,
    Ranked,
    best_of,
    check_normalise,
    finish,
    join,
    open_rows,
    ranked,
    segment_logsumexp,
)
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.trie import Trie


class Ask(NamedTuple):
    """One request: which token comes next?

    Attributes:
        tokens: the prompt and the beam's prefix.
        answer_start: where in them the answer began.
        logprobs: how many of the likeliest tokens to tell.
    """

    tokens: list[int]
    answer_start: int
    logprobs: int


class Reply(NamedTuple):
    """The likeliest next tokens; some may be named twice.

    Attributes:
        tokens: (n,) token ids.
        logprobs: (n,) log-probability among the children of the prefix, in nats; -inf for what is no child.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]


def rounds(
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    k: int,
    beams: int | None = None,
    filters: Sequence[Filter | None] | None = None,
    normalise: Normalise = "catalogue",
) -> Generator[list[Ask], list[Reply], Ranked]:
    """Beam search that yields each round's requests, is sent their replies in order, and returns the items.

    Args:
        token_ids: (n_symbols,) the model's token of each symbol.
        prompts: token ids of each row.
        k: items wanted a row.
        beams: prefixes kept a row and level, at least k; k if None.
        filters: what each row may be given; None allows every item.
        normalise: 'catalogue' or 'allowed', as in `search.Normalise`.

    Raises:
        RequestError: k < 1, fewer beams than k, `normalise` unknown or 'vocabulary', not one filter a prompt.
        ModelError: a reply that names no child of its prefix.
    """
    width = _checked(k, beams, normalise)
    sieve = Filters(trie, filters, len(prompts))
    reader = _Reader(trie, token_ids)
    live = open_rows(trie, sieve, len(prompts))
    done = live[:0]
    while len(live.row):
        source, _, child = trie.children(live.node)
        keep = sieve.keep(live.row, live.node, source, child)
        replies = yield _asks(trie, token_ids, prompts, live, source, keep, width, normalise)
        grown = reader.grown(live, replies, source[keep], child[keep], normalise)
        pool = best_of(join(trie, done, grown), width, len(prompts))
        done, live, _ = finish(trie, sieve, pool, normalise)
    return ranked(trie, done, len(prompts), k)


def _checked(k: int, beams: int | None, normalise: Normalise) -> int:
    """Beams a row, after refusing what makes no sense."""
    check_normalise(normalise)
    if normalise == "vocabulary":
        raise RequestError(
            "normalise='vocabulary' needs logits that vLLM's masked log-probabilities do not tell: say 'catalogue', or "
            "use the transformers engine."
        )
    if k < 1 or (beams is not None and beams < k):
        raise RequestError(f"k={k} items from beams={beams}: ask for at least one item, and as many beams.")
    return k if beams is None else beams


def _asks(
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    live: Beams,
    source: np.ndarray,
    keep: np.ndarray,
    width: int,
    normalise: Normalise,
) -> list[Ask]:
    """A request for each live beam, telling enough tokens that the `width` best allowed ones are among them."""
    total = np.bincount(source, minlength=len(live.row))
    denied = total - np.bincount(source, keep, len(live.row)).astype(np.int64)
    tell = total if normalise == "allowed" else np.minimum(total, width + denied)  # to renormalise, all must be known
    codes = trie.code(trie.order[trie.start[live.node]])
    depth = trie.depth_of(live.node).tolist()
    prefixes = np.asarray(token_ids)[codes].tolist()
    rows = zip(live.row.tolist(), prefixes, depth, tell.tolist(), strict=True)
    return [Ask([*prompts[row], *prefix[:length]], len(prompts[row]), n) for row, prefix, length, n in rows]


class _Reader:
    """Turns replies into scored children."""

    def __init__(self, trie: Trie, token_ids: np.ndarray) -> None:
        self.trie = trie
        self.symbol_of = np.full(int(np.max(token_ids)) + 2, -2, np.int64)  # -2 is no symbol
        self.symbol_of[token_ids] = np.arange(len(token_ids))

    def grown(
        self, live: Beams, replies: Sequence[Reply], parent: np.ndarray, allowed: np.ndarray, normalise: Normalise
    ) -> Beams:
        """Children that the replies name and the filter allows, in the order of row and sorted position.

        Args:
            parent: (edges,) the live beam that each of the next is a child of.
            allowed: (edges,) every child that the filters allow.
        """
        source = np.repeat(np.arange(len(live.row)), [len(reply.tokens) for reply in replies])
        tokens = np.concatenate([np.asarray(reply.tokens, np.int64) for reply in replies])
        logprobs = np.concatenate([np.asarray(reply.logprobs, np.float64) for reply in replies])
        real = logprobs > -np.inf
        source, tokens, logprobs = source[real], tokens[real], logprobs[real]
        symbol = self.symbol_of[np.minimum(tokens, len(self.symbol_of) - 1)]
        child = self.trie.child(live.node[source], symbol)
        self._check(live, source, child)
        nodes = len(self.trie.start)
        edge, first = np.unique(source * nodes + child, return_index=True)
        first = first[np.isin(edge, parent * nodes + allowed)]
        source, symbol, child, logprobs = source[first], symbol[first], child[first], logprobs[first]
        if normalise == "allowed" and len(source):
            beam = np.cumsum(np.diff(source, prepend=source[0]) != 0)
            logprobs = logprobs - segment_logsumexp(logprobs, beam)[beam]
        score = live.score[source] + logprobs
        return Beams(live.row[source], child, score, score, np.zeros_like(child), symbol)

    def _check(self, live: Beams, source: np.ndarray, child: np.ndarray) -> None:
        if (child < 0).any() or len(np.unique(source)) < len(live.row):
            raise ModelError(
                "vLLM answered with tokens that no item has there. Start it with the item processor "
                "(logits_processors=['llmrec.decode.vllm_processor:ItemLogitsProcessor']) and "
                "logprobs_mode='processed_logprobs', for the catalogue of this model."
            )
