"""Advantages: how much better than its group an item is, with a mean of zero in every group."""

from __future__ import annotations

import math

import numpy as np

SPREAD = 1e-6  # rewards of a group that differ by less are equal


def shares(weights: np.ndarray) -> np.ndarray:
    """(rows, n) weights that sum to 1 in every row, and to 0 in one without any."""
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)


def flat(rewards: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(rows,) bool, whether all rewards of a group are equal, so that it teaches nothing.

    Source: DAPO's dynamic sampling, Yu et al. 2025, arXiv 2503.14476, eq. 11.
    """
    high = np.where(there, rewards, -np.inf).max(1)
    low = np.where(there, rewards, np.inf).min(1)
    return ~(high - low > SPREAD)


def advantages(rewards: np.ndarray, weights: np.ndarray, scaled: bool) -> np.ndarray:
    """Rewards less the mean of their group.

    Args:
        rewards: (rows, n).
        weights: (rows, n) what each counts, 0 where there is no item.
        scaled: divide by the group's standard deviation (GRPO); not so in Dr. GRPO, where easy and hard groups keep
            the size that they have.

    Returns:
        (rows, n) float64; weighted by shares they sum to 0 in every row, and a flat group is all 0.

    Source: Shao et al. 2024, arXiv 2402.03300, section 4.1.2; Liu et al. 2025, arXiv 2503.20783, section 3.2.
    """
    part, there = shares(weights), weights > 0
    centred = np.where(there, rewards - (part * rewards).sum(1, keepdims=True), 0)
    centred[flat(rewards, there)] = 0
    if not scaled:
        return centred
    spread = np.sqrt((part * centred**2).sum(1, keepdims=True))
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def pass_bonus(hits: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """What a group gains where one of k draws hits: a bonus for hits that fades as they become sure.

    With c hits among n, rho = 1 - C(n - c, k) / C(n, k) is the chance that k of the n hold a hit. A hit gets
    (1 - rho) / sigma, any other item (1 - rho - C(n - c - 1, k - 1) / C(n - 1, k - 1)) / sigma, with sigma the root of
    rho (1 - rho). It sums to 0 in a group, and is 0 where n - c < k: then k draws hit anyway.

    Args:
        hits: (rows, n) bool.
        weights: (rows, n) what each counts; where they differ, the mean by their shares is taken off.
        k: draws, at most n.

    Source: GREAM (Indolent-Kawhi/GRRM), the bonus of its group-based advantage.
    """
    n, there = hits.shape[1], weights > 0
    table = np.zeros((n + 1, 2))
    for c in range(1, n + 1):
        rho = 1 - math.comb(n - c, k) / math.comb(n, k)
        sigma = math.sqrt(rho * (1 - rho))
        if sigma:
            miss = math.comb(max(n - c - 1, 0), k - 1) / math.comb(n - 1, k - 1)
            table[c] = (1 - rho - miss) / sigma, (1 - rho) / sigma
    count = (hits & there).sum(1)
    bonus = np.where(there, table[count[:, None], hits.astype(int)], 0)
    return np.where(there, bonus - (shares(weights) * bonus).sum(1, keepdims=True), 0)
