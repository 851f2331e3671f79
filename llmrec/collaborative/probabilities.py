"""Scores of collaborative models as probabilities: to teach by (`train.N.taught`), to mix with a language model's."""

from __future__ import annotations

import numpy as np

from llmrec.contracts import CollaborativeModel, Sequences

TOP_K = 50  # items that have a probability
POWER = 2.0  # power of a share that makes it a probability; chosen on validation items of Beauty


def topk_probabilities(
    model: CollaborativeModel, histories: Sequences, allow_seen: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable next items of some histories, and their probabilities among one another.

    Shares count by their `POWER`; of logits it is the softmax. Items of the history are left out but for `allow_seen`.

    Returns:
        (rows, k) int32 items in no order; (rows, k) float64 probabilities that sum to 1, or all 0 where the model
        prefers no item to another.
    """
    scores = model.score(histories)
    shares = model.score_kind == "shares"
    if shares:
        np.maximum(scores, 0, out=scores)
    if not allow_seen:
        scores[histories.rows, histories.items] = 0 if shares else -np.inf
    count = min(TOP_K, scores.shape[1])
    items = np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int32)
    best = np.take_along_axis(scores, items, 1).astype(np.float64)
    weights = best**POWER if shares else _exponentials(best, scores)
    total = weights.sum(axis=1, keepdims=True)
    return items, weights / np.where(total > 0, total, 1)


def _exponentials(best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(rows, k) exponentials of the best logits, relative to the highest; 0 where all scores of a row are equal."""
    highest = best.max(axis=1, keepdims=True)
    lowest = np.where(np.isneginf(scores), np.inf, scores).min(axis=1, keepdims=True)
    return np.where(highest > lowest, np.exp(best - np.where(np.isfinite(highest), highest, 0)), 0)
