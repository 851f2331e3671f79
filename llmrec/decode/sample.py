"""Constrained sampling: items drawn from the model, only real and allowed ones, with the probabilities training needs.

With replacement, samples that share a prefix share its branch. Without replacement it is stochastic beam search: the
log-probability of every item gets Gumbel noise and the n largest are kept, found top-down because the largest noise
below a prefix is known before its children are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.decode.filters import Filter, Filters
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import Beams, best_of, dense, expand, finish, join, open_rows, slots
from llmrec.errors import RequestError
from llmrec.indexing.trie import Trie


@dataclass(frozen=True)
class Sampled:
    """Items drawn for every row, independent of one another.

    Attributes:
        items: (rows, n) int32 item numbers; a whole row of -1 where a filter allows nothing.
        log_probs: (rows, n) float32 log-probability of each draw in nats, under the distribution drawn from.
    """

    items: np.ndarray
    log_probs: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Distinct items drawn for every row, in the order of drawing.

    Attributes:
        items: (rows, n) int32 item numbers; -1 after the last, where fewer than n are allowed.
        log_probs: (rows, n) float32 log-probability of each item in nats, had one been drawn; -inf where none.
        threshold: (rows,) float32 the log-probability with Gumbel noise of the item that came next, or -inf where all
            were drawn. An item is among those drawn with probability 1 - exp(-exp(log_prob - threshold)): divide by it
            for unbiased sums.
    """

    items: np.ndarray
    log_probs: np.ndarray
    threshold: np.ndarray


def sample(
    scorer: Scorer,
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    n: int,
    temperature: float = 1.0,
    filters: Sequence[Filter | None] | None = None,
    seed: int | np.random.Generator = 0,
) -> Sampled:
    """Draw n items a row with replacement.

    Args:
        token_ids: (n_symbols,) the model's token of each symbol.
        prompts: token ids of each row; lengths may differ.
        temperature: divides the logits; each symbol is drawn from the softmax over the children that trie and filter
            allow.
        filters: what each row may be given; None allows every item.
        seed: of the noise, or a generator to go on with.

    Raises:
        RequestError: n < 1, temperature not above 0, not one filter a prompt, an empty or too long prompt.
        ModelError: a token of the codes that the model does not have.
    """
    _check(n, temperature)
    random, rows = np.random.default_rng(seed), len(prompts)
    sieve = Filters(trie, filters, rows)
    state = scorer.prefill(prompts, token_ids, trie.depth)
    live = open_rows(trie, sieve, rows)
    who = np.repeat(live.row, n) * n + np.tile(np.arange(n), len(live.row))  # sample numbers still growing
    at = np.repeat(np.arange(len(live.row)), n)  # and the beam that each has come to
    items, log_probs = np.full(rows * n, -1, np.int32), np.full(rows * n, -np.inf, np.float32)
    while len(who):
        source, grown = expand(trie, sieve, live, state.logits, "allowed", temperature)
        edge = _pick(np.exp(grown.score - live.score[source]), source, at, random)
        kept, at = np.unique(edge, return_inverse=True)
        done, live, ended = finish(trie, sieve, grown[kept], "allowed")
        place = np.where(ended, np.cumsum(ended), np.cumsum(~ended)) - 1
        over, at = ended[at], place[at]
        items[who[over]], log_probs[who[over]] = trie.item_at(done.node)[at[over]], done.score[at[over]]
        who, at = who[~over], at[~over]
        if len(who):
            scorer.step(state, *dense(live, rows))
    return Sampled(items.reshape(rows, n), log_probs.reshape(rows, n))


def sample_without_replacement(
    scorer: Scorer,
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    n: int,
    temperature: float = 1.0,
    filters: Sequence[Filter | None] | None = None,
    seed: int | np.random.Generator = 0,
) -> Drawn:
    """Draw n distinct items a row: Gumbel top-k over the trie. Arguments and errors as in `sample`.

    Source: Kool et al. 2019, arXiv 1903.06059, algorithm 1.
    """
    _check(n, temperature)
    random, rows = np.random.default_rng(seed), len(prompts)
    sieve = Filters(trie, filters, rows)
    state = scorer.prefill(prompts, token_ids, trie.depth)
    live = open_rows(trie, sieve, rows)
    live = replace(live, key=random.gumbel(size=len(live.row)))
    done = live[:0]
    while len(live.row):
        source, grown = expand(trie, sieve, live, state.logits, "allowed", temperature)
        noisy = grown.score + random.gumbel(size=len(source))
        grown = replace(grown, key=_given_largest(noisy, live.key, source))
        pool = best_of(join(trie, done, grown), n + 1, rows)  # one more, for the threshold
        done, live, _ = finish(trie, sieve, pool, "allowed")
        if len(live.row):
            scorer.step(state, *dense(live, rows))
    return _drawn(trie, done, rows, n)


def _check(n: int, temperature: float) -> None:
    if n < 1 or not temperature > 0:
        raise RequestError(f"n={n} samples at temperature={temperature}: draw at least 1, at a temperature above 0.")


def _pick(mass: np.ndarray, source: np.ndarray, at: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(samples,) an edge for each sample, by the mass of the edges of the beam it is at."""
    first = np.flatnonzero(np.diff(source, prepend=-1))
    last = np.append(first[1:], len(source)) - 1
    upto = np.cumsum(mass)
    base = upto[first] - mass[first]
    target = base[at] + random.random(len(at)) * (upto[last] - base)[at]
    return np.clip(np.searchsorted(upto, target, side="right"), first[at], last[at])


def _given_largest(noisy: np.ndarray, largest: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Shift Gumbel-perturbed values of siblings so that the largest of them is what their parent already has.

    Args:
        noisy: (edges,) log-probability plus Gumbel noise.
        largest: (beams,) the parent's perturbed value.
        source: (edges,) the parent of each edge, in order.

    Source: Kool et al. 2019, arXiv 1903.06059, appendix B.3, in its numerically stable form.
    """
    top = np.maximum.reduceat(noisy, np.flatnonzero(np.diff(source, prepend=-1)))[source]
    with np.errstate(divide="ignore"):
        v = largest[source] - noisy + np.log1p(-np.exp(np.minimum(noisy - top, 0)))
    return largest[source] - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))


def _drawn(trie: Trie, done: Beams, rows: int, n: int) -> Drawn:
    order = np.lexsort((trie.start[done.node], -done.key, done.row))
    done = done[order]
    slot = slots(done.row)
    items = np.full((rows, n + 1), -1, np.int32)
    log_probs, noisy = np.full((2, rows, n + 1), -np.inf, np.float32)
    items[done.row, slot] = trie.item_at(done.node)
    log_probs[done.row, slot], noisy[done.row, slot] = done.score, done.key
    return Drawn(items[:, :n], log_probs[:, :n], noisy[:, n])
