"""Items drawn from the policy as it stands: a group for each moment, with the weights that make sums over it fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.align.tree import plant
from llmrec.decode.filters import BatchFilters, Filter
from llmrec.decode.sample import sample
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.indexing.trie import ROOT, Trie
from llmrec.model.vocabulary import code_tokens
from llmrec.recipe import Grpo


@dataclass(frozen=True)
class Group:
    """Items drawn at some moments.

    Attributes:
        items: (rows, n) int32 item numbers; -1 where fewer may be recommended.
        log_probs: (rows, n) float32 of each item under the masked policy drawn from, in nats.
        weights: (rows, n) float64, what each item counts, so that a weighted sum of f(item) has the mean of f under the
            policy as its expectation. 1/n with replacement; probability over the chance of being drawn without; 1/n
            for beams, which are no draw: their sums are biased.
    """

    items: np.ndarray
    log_probs: np.ndarray
    weights: np.ndarray


def draw(
    settings: Grpo,
    scorer: Scorer,
    trie: Trie,
    tokens: np.ndarray,
    prompts: Sequence[Sequence[int]],
    filters: Sequence[Filter | None],
    random: np.random.Generator,
) -> Group:
    """Groups of `settings.group_size` items after some prompts, by `settings.sampling`, at `settings.temperature`."""
    n, temperature = settings.group_size, settings.temperature
    if settings.sampling == "with-replacement":
        drawn = sample(scorer, trie, tokens, prompts, n, temperature, filters, random)
        return Group(drawn.items, drawn.log_probs, np.full(drawn.items.shape, 1 / n))
    if settings.sampling == "beams":
        found = beam_search(scorer, trie, tokens, prompts, min(n, len(trie)), None, filters, "allowed")
        there = found.items >= 0
        return Group(found.items, found.scores, there / np.maximum(1, there.sum(1, keepdims=True)))
    several = sample(scorer, trie, tokens, prompts, n, temperature, filters, random, replacement=False)
    return Group(several.items, several.log_probs, fair_weights(several.log_probs, several.threshold))


def fair_weights(log_probs: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Weights of items drawn without replacement: a probability over the chance that the item is among those drawn.

    Args:
        log_probs: (rows, n) of each item, had one been drawn; -inf where there is none.
        threshold: (rows,) perturbed log-probability of the item that came next; -inf where all were drawn.

    Source: Kool et al. 2019, arXiv 1903.06059, section 4.2.
    """
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isneginf(threshold)[:, None], np.inf, log_probs.astype(np.float64) - threshold[:, None])
    chance = -np.expm1(-np.exp(np.minimum(gap, 700)))
    there = ~np.isneginf(log_probs)
    return np.where(there, np.exp(log_probs.astype(np.float64)) / np.where(there, chance, 1), 0)


def policy_tree(
    trie: Trie,
    tokens: np.ndarray,
    prompts: Sequence[np.ndarray],
    items: np.ndarray,
    filters: Sequence[Filter | None],
) -> dict[str, Tensor]:
    """The tree of some prompts and items as answers, with what the policy may choose among at every place.

    Args:
        trie: of the catalogue.
        tokens: (n_symbols,) the model's token of each symbol.
        prompts: (length,) tokens of each.
        items: (rows, answers) item numbers, -1 for none.
        filters: what each row may be given.

    Returns:
        As `plant`, and symbols: (rows, answers, depth) int64, 0 where there is none; allowed: (rows, answers, depth,
        n_symbols) bool.
    """
    codes = trie.code(items.reshape(-1)).reshape(*items.shape, -1)
    tree = plant(prompts, list(code_tokens(codes, tokens)))
    symbols = np.maximum(codes, 0).astype(np.int64)
    allowed = _allowed(trie, BatchFilters(trie, filters, len(items)), codes)
    return tree | {"symbols": torch.from_numpy(symbols), "allowed": torch.from_numpy(allowed)}


def _allowed(trie: Trie, sieve: BatchFilters, codes: np.ndarray) -> np.ndarray:
    rows, answers, depth = codes.shape
    allowed = np.zeros((rows * answers, depth, trie.n_symbols), bool)
    row, node = np.repeat(np.arange(rows), answers), np.full(rows * answers, ROOT)
    for level, symbol in enumerate(codes.reshape(-1, depth).T):
        going = np.flatnonzero((node >= 0) & (symbol >= 0))
        source, edge, child = trie.children(node[going])
        kept = sieve.count_allowed(row[going][source], trie.start[child], trie.stop[child]) > 0
        allowed[going[source[kept]], level, edge[kept]] = True
        node[going] = trie.child(node[going], symbol[going])
    return allowed.reshape(rows, answers, depth, -1)
