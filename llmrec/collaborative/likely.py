"""What a teacher expects next, as chances: to teach by (`train.N.taught`), and to recommend beside a language model."""

from __future__ import annotations

import numpy as np

from llmrec.contracts import Sequences, Teacher

LIKELY = 50  # items that have a chance at all
SHARP = 2.0  # power of a teacher's score that makes it a chance; chosen on validation items of Beauty


def likely(teacher: Teacher, histories: Sequences, again: bool) -> tuple[np.ndarray, np.ndarray]:
    """A teacher's likeliest items after some histories, in no order.

    Args:
        teacher: fitted; one whose scores are shares, not logits.
        histories: oldest item first.
        again: whether what is in a history may come again.

    Returns:
        (rows, likely) int32 items; (rows, likely) float64 chances that sum to 1, all 0 where it expects nothing.
    """
    scores = np.maximum(teacher.score(histories), 0)
    if not again:
        scores[histories.rows, histories.items] = 0
    count = min(LIKELY, scores.shape[1])
    items = np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int32)
    chances = np.take_along_axis(scores, items, 1).astype(np.float64) ** SHARP
    total = chances.sum(axis=1, keepdims=True)
    return items, chances / np.where(total > 0, total, 1)
