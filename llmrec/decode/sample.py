"""Constrained sampling: items drawn from the model, only real and allowed ones, with the probabilities training needs.

With replacement, samples that share a prefix share its branch. Without replacement it is stochastic beam search: the
log-probability of every item gets Gumbel noise and the n largest are kept, found top-down because the largest noise
below a prefix is known before its children are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.decode.filters import FilterList, Filters
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import best_of, dense, expand, finish, join, open_rows, table
from llmrec.errors import RequestError
from llmrec.indexing.trie import Trie


@dataclass(frozen=True)
class Sampled:
    """Items drawn for every row: with replacement, or distinct ones in the order of drawing.

    Attributes:
        items: (rows, n) int32 item numbers; -1 where there is no further allowed item.
        log_probs: (rows, n) float32 log-probability of each draw in nats; -inf where there is none.
        threshold: of distinct items, (rows,) float32 the log-probability with Gumbel noise of the item that came next,
            -inf where all were drawn. An item is among those drawn with probability
            1 - exp(-exp(log_prob - threshold)): divide by it for unbiased sums.
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
    filters: FilterList = None,
    seed: int | np.random.Generator = 0,
) -> Sampled:
    """Draw n items a row with replacement.

    Other arguments and errors are those of `beam_search`.

    Args:
        temperature: above 0, divides the logits; each symbol is drawn from the softmax over the children that trie and
            filter allow.
        seed: of the noise, or a generator to go on with.
    """
    rows, sieve, random = len(prompts), Filters(trie, filters, len(prompts)), _random(n, temperature, seed)
    state, live = scorer.prefill(prompts, token_ids, trie.depth), open_rows(sieve)
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
    return Sampled(items.reshape(rows, n), log_probs.reshape(rows, n), np.zeros(0, np.float32))


def sample_without_replacement(
    scorer: Scorer,
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    n: int,
    temperature: float = 1.0,
    filters: FilterList = None,
    seed: int | np.random.Generator = 0,
) -> Sampled:
    """Draw n distinct items a row: Gumbel top-k over the trie. Arguments and errors as in `sample`.

    Source: Kool et al. 2019, arXiv 1903.06059, algorithm 1.
    """
    rows, sieve, random = len(prompts), Filters(trie, filters, len(prompts)), _random(n, temperature, seed)
    state, live = scorer.prefill(prompts, token_ids, trie.depth), open_rows(sieve)
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
    items, (log_probs, noisy) = table(trie, done, rows, n + 1, done.score, done.key)
    return Sampled(items[:, :n], log_probs[:, :n], noisy[:, n])


def _random(n: int, temperature: float, seed: int | np.random.Generator) -> np.random.Generator:
    if n < 1 or not temperature > 0:
        raise RequestError(f"n={n} samples at temperature={temperature}: draw at least 1, at a temperature above 0.")
    return np.random.default_rng(seed)


def _pick(mass: np.ndarray, source: np.ndarray, at: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(samples,) an edge for each sample, by the mass of the edges of the beam it is at."""
    first = np.flatnonzero(np.diff(source, prepend=-1))
    last = np.append(first[1:], len(source)) - 1
    upto = np.cumsum(mass)
    base = upto[first] - mass[first]
    target = base[at] + random.random(len(at)) * (upto[last] - base)[at]
    return np.clip(np.searchsorted(upto, target, side="right"), first[at], last[at])


def _given_largest(noisy: np.ndarray, largest: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Shift Gumbel-perturbed values of siblings (edges,) so that the largest of them is their parent's (beams,) value.

    Source: Kool et al. 2019, arXiv 1903.06059, appendix B.3, in its numerically stable form.
    """
    top = np.maximum.reduceat(noisy, np.flatnonzero(np.diff(source, prepend=-1)))[source]
    with np.errstate(divide="ignore"):
        v = largest[source] - noisy + np.log1p(-np.exp(np.minimum(noisy - top, 0)))
    return largest[source] - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))
