"""Constrained sampling: draw items from the model, only real and allowed ones, with the probabilities training needs.

With replacement, samples that share a prefix share its branch. Without replacement it is stochastic beam search: Gumbel
noise is added to the log-probability of every item and the n largest are kept. The search is top-down because the
largest noisy value below a prefix is known before those of its children.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.decode.filters import BatchFilters, FilterList
from llmrec.decode.scorer import BranchState, Scorer
from llmrec.decode.search import expand, init_beams, merge, split_finished, to_dense, to_table, top_k_per_row
from llmrec.errors import RequestError
from llmrec.indexing.trie import Trie


@dataclass(frozen=True)
class Sampled:
    """Items drawn for every row: with replacement, or distinct ones in the order of drawing.

    Attributes:
        items: (rows, n) int32 item numbers; -1 where there is no further allowed item.
        log_probs: (rows, n) float32 log-probability of each draw in nats; -inf where there is none.
        threshold: without replacement, (rows,) float32 the noisy log-probability of the next item that was not drawn,
            -inf where all were drawn. An item is drawn with probability 1 - exp(-exp(log_prob - threshold)): divide by
            it for unbiased sums.
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
    replacement: bool = True,
) -> Sampled:
    """Draw n items per row; other arguments and errors as in `beam_search`.

    Args:
        temperature: above 0, divides the logits; each symbol is drawn from the softmax over the children that trie and
            filter allow.
        seed: of the noise, or a generator.
        replacement: whether an item may be drawn twice; else by Gumbel top-k over the trie.

    Source: without replacement Kool et al. 2019, arXiv 1903.06059, algorithm 1.
    """
    if n < 1 or not temperature > 0:
        raise RequestError(f"n={n} samples at temperature={temperature}: draw at least 1, at a temperature above 0.")
    batch_filters, random = BatchFilters(trie, filters, len(prompts)), np.random.default_rng(seed)
    state = scorer.prefill(prompts, token_ids, trie.depth)
    if not replacement:
        return _gumbel_top_k(scorer, trie, state, n, temperature, batch_filters, random)
    rows, live = len(prompts), init_beams(batch_filters)
    active = np.repeat(live.row, n) * n + np.tile(np.arange(n), len(live.row))  # samples that are not finished
    beam = np.repeat(np.arange(len(live.row)), n)  # the live beam of each
    items, log_probs = np.full(rows * n, -1, np.int32), np.full(rows * n, -np.inf, np.float32)
    while len(active):
        source, children = expand(trie, batch_filters, live, state.logits, "allowed", temperature)
        edge = _draw_edges(np.exp(children.score - live.score[source]), source, beam, random)
        kept, beam = np.unique(edge, return_inverse=True)
        finished, live, ended = split_finished(trie, batch_filters, children[kept], "allowed")
        index = np.where(ended, np.cumsum(ended), np.cumsum(~ended)) - 1
        over, beam = ended[beam], index[beam]
        items[active[over]] = trie.item_at(finished.node)[beam[over]]
        log_probs[active[over]] = finished.score[beam[over]]
        active, beam = active[~over], beam[~over]
        if len(active):
            scorer.step(state, *to_dense(live, rows))
    return Sampled(items.reshape(rows, n), log_probs.reshape(rows, n), np.zeros(0, np.float32))


def _gumbel_top_k(
    scorer: Scorer,
    trie: Trie,
    state: BranchState,
    n: int,
    temperature: float,
    filters: BatchFilters,
    random: np.random.Generator,
) -> Sampled:
    rows, live = len(state.lengths), init_beams(filters)
    live = replace(live, key=random.gumbel(size=len(live.row)))
    finished = live[:0]
    while len(live.row):
        source, children = expand(trie, filters, live, state.logits, "allowed", temperature)
        noisy = children.score + random.gumbel(size=len(source))
        children = replace(children, key=_condition_on_max(noisy, live.key, source))
        pool = top_k_per_row(merge(trie, finished, children), n + 1, rows)  # one more, for the threshold
        finished, live, _ = split_finished(trie, filters, pool, "allowed")
        if len(live.row):
            scorer.step(state, *to_dense(live, rows))
    items, (log_probs, noisy) = to_table(trie, finished, rows, n + 1, finished.score, finished.key)
    return Sampled(items[:, :n], log_probs[:, :n], noisy[:, n])


def _draw_edges(mass: np.ndarray, source: np.ndarray, beam: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(samples,) an edge for each sample, drawn by the probability mass (edges,) of the edges of its beam."""
    first = np.flatnonzero(np.diff(source, prepend=-1))
    last = np.append(first[1:], len(source)) - 1
    cumulative = np.cumsum(mass)
    base = cumulative[first] - mass[first]
    target = base[beam] + random.random(len(beam)) * (cumulative[last] - base)[beam]
    return np.clip(np.searchsorted(cumulative, target, side="right"), first[beam], last[beam])


def _condition_on_max(noisy: np.ndarray, largest: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Shift Gumbel-perturbed values of siblings (edges,) so that their maximum is their parent's (beams,) value.

    Source: Kool et al. 2019, arXiv 1903.06059, appendix B.3, in its numerically stable form.
    """
    top = np.maximum.reduceat(noisy, np.flatnonzero(np.diff(source, prepend=-1)))[source]
    with np.errstate(divide="ignore"):
        v = largest[source] - noisy + np.log1p(-np.exp(np.minimum(noisy - top, 0)))
    return largest[source] - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))
