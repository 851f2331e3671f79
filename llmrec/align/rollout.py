"""Roll-outs: groups of items sampled from the current policy, the weights that make sums unbiased, and advantages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.align.shared_prefix import build_shared_prefix_batch
from llmrec.decode.filters import BatchFilters, Filter
from llmrec.decode.sample import sample
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.indexing.trie import ROOT, Trie
from llmrec.model.vocabulary import code_tokens
from llmrec.recipe import Grpo

EQUAL = 1e-6  # rewards of a group that differ by less are equal


@dataclass(frozen=True)
class Rollouts:
    """A group of sampled items for each of some positions, with their rewards.

    Attributes:
        items: (rows, n) int32 item numbers; -1 where fewer may be recommended.
        weights: (rows, n) float64 of each item, see `sample_items`.
        targets: (rows,) int32 target items.
        rewards: (rows, n) float64 total reward.
        reward_means: name → mean of each reward.
    """

    items: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    rewards: np.ndarray
    reward_means: dict[str, float]

    @property
    def valid(self) -> np.ndarray:
        """(rows, n) bool, where there is an item."""
        return self.items >= 0

    @property
    def hits(self) -> np.ndarray:
        """(rows, n) bool, which items are the target of their row."""
        return np.equal(self.items, self.targets[:, None])

    @property
    def distinct(self) -> np.ndarray:
        """(rows,) float64 share of different items among those of each group."""
        counts = [len(np.unique(row[row >= 0])) for row in self.items]
        return np.array(counts) / np.maximum(1, self.valid.sum(1))


def sample_items(
    settings: Grpo,
    scorer: Scorer,
    trie: Trie,
    tokens: np.ndarray,
    prompts: Sequence[Sequence[int]],
    filters: Sequence[Filter | None],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample `settings.group_size` items after each prompt by `settings.sampling`, at `settings.temperature`.

    Returns:
        items: (rows, n) int32 item numbers; -1 where fewer may be recommended.
        log_probs: (rows, n) float32 of each under the masked policy, in nats.
        weights: (rows, n) float64, so that the expectation of a weighted sum of f(item) is the mean of f under the
            policy: 1/n with replacement; probability over inclusion probability without; 1/n for beams, which are not
            samples: their sums are biased.
    """
    n, request = settings.group_size, (scorer, trie, tokens, prompts)
    if settings.sampling == "beams":
        best = beam_search(*request, min(n, len(trie)), None, filters, "allowed")
        return best.items, best.scores, normalize(best.items >= 0)
    replacement = settings.sampling == "with-replacement"
    drawn = sample(*request, n, settings.temperature, filters, random, replacement)
    equal = np.full(drawn.items.shape, 1 / n)
    weights = equal if replacement else inclusion_weights(drawn.log_probs, drawn.threshold)
    return drawn.items, drawn.log_probs, weights


def inclusion_weights(log_probs: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Weights of items sampled without replacement: probability over inclusion probability.

    Args:
        log_probs: (rows, n) of each item in a single draw; -inf where there is none.
        threshold: (rows,) perturbed log-probability of the first item left out; -inf where all were sampled.

    Source: Kool et al. 2019, arXiv 1903.06059, section 4.2.
    """
    log_probs, valid = log_probs.astype(np.float64), ~np.isneginf(log_probs)
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isneginf(threshold)[:, None], np.inf, log_probs - threshold[:, None])
    inclusion = -np.expm1(-np.exp(np.minimum(gap, 700)))
    return np.where(valid, np.exp(log_probs) / np.where(valid, inclusion, 1), 0)


def normalize(weights: np.ndarray) -> np.ndarray:
    """(rows, n) weights scaled to sum to 1 in every row, or 0 in a row of zeros."""
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)


def advantages(rewards: np.ndarray, weights: np.ndarray, scaled: bool) -> np.ndarray:
    """Rewards minus the weighted mean of their group.

    Args:
        rewards: (rows, n).
        weights: (rows, n) of each item, 0 where there is none.
        scaled: divide by the standard deviation of the group, as in GRPO and not in Dr. GRPO.

    Returns:
        (rows, n) float64; the weighted mean is 0 in every row, and a constant group is all 0.

    Source: Shao et al. 2024, arXiv 2402.03300, section 4.1.2; Liu et al. 2025, arXiv 2503.20783, section 3.2.
    """
    part, valid = normalize(weights), weights > 0
    centred = np.where(valid, rewards - (part * rewards).sum(1, keepdims=True), 0)
    high, low = np.where(valid, rewards, -np.inf).max(1), np.where(valid, rewards, np.inf).min(1)
    centred[~(high - low > EQUAL)] = 0
    if not scaled:
        return centred
    deviation = np.sqrt((part * centred**2).sum(1, keepdims=True))
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def pass_bonus(hits: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Advantage for pass@k: a bonus for hits that falls as k samples become certain to hold a hit.

    With c hits among n, rho = 1 - C(n - c, k) / C(n, k) is the chance that k of the n hold a hit. A hit gets
    (1 - rho) / sigma, any other item (1 - rho - C(n - c - 1, k - 1) / C(n - 1, k - 1)) / sigma, with sigma the root of
    rho (1 - rho). It sums to 0 in a group, and is 0 where n - c < k: then any k samples hold a hit.

    Args:
        hits: (rows, n) bool.
        weights: (rows, n) of each item; where they differ, the weighted mean is subtracted.
        k: samples, at most n.

    Source: GREAM (Indolent-Kawhi/GRRM), the bonus of its group-based advantage.
    """
    n, valid = hits.shape[1], weights > 0
    table = np.zeros((n + 1, 2))  # by number of hits: the bonus of a miss, and of a hit
    for c in range(1, n + 1):
        rho = 1 - math.comb(n - c, k) / math.comb(n, k)
        sigma = math.sqrt(rho * (1 - rho))
        if sigma:
            miss = math.comb(max(n - c - 1, 0), k - 1) / math.comb(n - 1, k - 1)
            table[c] = (1 - rho - miss) / sigma, (1 - rho) / sigma
    count = (hits & valid).sum(1)
    bonus = np.where(valid, table[count[:, None], hits.astype(int)], 0)
    return np.where(valid, bonus - (normalize(weights) * bonus).sum(1, keepdims=True), 0)


def group_advantages(settings: Grpo, rollouts: Rollouts, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor of each sample's log-probability in the loss.

    Args:
        codes: (items, levels) symbols of every item, padded at the end by -1.

    Returns:
        (rows, n) weighted advantages with the pass@k bonus, divided by the code's length (Dr. GRPO: the longest); and
        (rows,) bool, whether all of a group are 0, so that it has no gradient (DAPO, arXiv 2503.14476, eq. 11).
    """
    scaled, total = settings.advantage == "grpo", np.zeros(rollouts.rewards.shape)
    if settings.advantage != "pass":
        total += advantages(rollouts.rewards, rollouts.weights, scaled)
    if settings.pass_at_k:
        total += pass_bonus(rollouts.hits, rollouts.weights, settings.pass_at_k)
    lengths = (codes[np.maximum(rollouts.items, 0)] >= 0).sum(2) if scaled else codes.shape[1]
    return rollouts.weights * total / lengths, np.all(total == 0, axis=1)


def policy_batch(
    trie: Trie,
    tokens: np.ndarray,
    prompts: Sequence[np.ndarray],
    items: np.ndarray,
    filters: Sequence[Filter | None],
) -> dict[str, Tensor]:
    """Build the shared-prefix batch of prompts and items, with the symbols that the policy may choose at each level.

    Args:
        tokens: (n_symbols,) the model's token of each symbol.
        prompts: token ids of each, (length,).
        items: (rows, answers) item numbers, -1 for none.
        filters: of each row.

    Returns:
        As `build_shared_prefix_batch`, and symbols: (rows, answers, depth) int64, 0 where there is none; allowed:
        (rows, answers, depth, n_symbols) bool.
    """
    codes = trie.code(items.reshape(-1))
    symbols = codes.reshape(*items.shape, -1)
    batch = build_shared_prefix_batch(prompts, list(code_tokens(symbols, tokens)))
    batch["symbols"] = torch.from_numpy(np.maximum(symbols, 0).astype(np.int64))
    row, depth = np.repeat(np.arange(len(items)), items.shape[1]), codes.shape[1]
    allowed = _allowed(trie, BatchFilters(trie, filters, len(items)), row, codes)
    batch["allowed"] = torch.from_numpy(allowed.reshape(*items.shape, depth, -1))
    return batch


def _allowed(trie: Trie, filters: BatchFilters, row: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(answers, depth, n_symbols) bool, the allowed children at each level of (answers, depth) codes."""
    allowed, node = np.zeros((*codes.shape, trie.n_symbols), bool), np.full(len(codes), ROOT)
    for level, symbol in enumerate(codes.T):
        live = np.flatnonzero((node >= 0) & (symbol >= 0))
        source, edge, child = trie.children(node[live])
        kept = filters.count_allowed(row[live][source], trie.start[child], trie.stop[child]) > 0
        allowed[live[source[kept]], level, edge[kept]] = True
        node[live] = trie.child(node[live], symbol[live])
    return allowed
