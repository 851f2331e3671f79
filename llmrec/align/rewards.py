"""Rewards: functions from sampled items to a value for each, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import ModelError


@dataclass(frozen=True)
class RewardInputs:
    """What a reward function may use.

    Attributes:
        items: (rows, n) int32 sampled items; -1 where there is none, whose reward is not used.
        log_probs: (rows, n) float32 of each under the policy, in nats.
        targets: (rows,) int32 the item that the user took.
        codes: (items, levels) int32 symbols of every item, padded at the end by -1.
        counts: (items,) int64 events of each item in the training part.
        teacher_scores: (rows, items) float32 a teacher's scores after each history; None where no reward needs them.
        users: (rows,) id of each row's user.
        item_ids: id of every item, by item number.
        titles: title of every item.
        read_texts: reads the text of every item; `texts` calls it.
    """

    items: np.ndarray
    log_probs: np.ndarray
    targets: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    teacher_scores: np.ndarray | None = None
    users: Sequence[str] = ()
    item_ids: Sequence[str] = ()
    titles: Sequence[str] = ()
    read_texts: Callable[[], Sequence[str]] = tuple

    @property
    def texts(self) -> Sequence[str]:
        """Text of every item, by item number (`items.text` of the recipe)."""
        return self.read_texts()

    @property
    def known_items(self) -> np.ndarray:
        """`items` with 0 in place of -1, to index arrays by."""
        return np.maximum(self.items, 0)


Reward = Callable[[RewardInputs], np.ndarray]
"""(rows, n) floats, larger is better."""


def hit(inputs: RewardInputs) -> np.ndarray:
    """1 for the target, 0 for any other item."""
    return (inputs.items == inputs.targets[:, None]).astype(np.float64)


def rank(inputs: RewardInputs) -> np.ndarray:
    """0 for the target; the other items share -1, more likely ones a larger part. All 0 in a group without the target.

    Source: MiniOneRec's ranking reward, `ndcg_rule_reward`; ranks are by probability there, too.
    """
    hits = hit(inputs) > 0
    order = np.argsort(np.argsort(-inputs.log_probs, axis=1, kind="stable"), axis=1)
    penalty = 1 / np.log2(order + 2)
    return -np.where(hits, 0, penalty / penalty.sum(1, keepdims=True)) * hits.any(1, keepdims=True)


def prefix(inputs: RewardInputs) -> np.ndarray:
    """Square root of the share of the target's code that the item's code starts with: 1 for the target.

    Source: GREAM's reward for partly right codes; .5, .707, .866 of four levels, as there.
    """
    codes, target = inputs.codes[inputs.known_items], inputs.codes[inputs.targets][:, None]
    shared = np.logical_and.accumulate((codes == target) & (target >= 0), axis=2).sum(2)
    return np.sqrt(shared / (target >= 0).sum(2))


def teacher(inputs: RewardInputs) -> np.ndarray:
    """Share of the catalogue that a teacher scores lower than the item, from 0 to 1."""
    scores = inputs.teacher_scores
    assert scores is not None, "this reward needs a teacher's scores"
    own = np.take_along_axis(scores, inputs.known_items, 1)
    below = [np.searchsorted(row, values) for row, values in zip(np.sort(scores, axis=1), own, strict=True)]
    return np.stack(below) / scores.shape[1]


def diversity(inputs: RewardInputs) -> np.ndarray:
    """1 minus the mean share of its code that an item has in common with the others of its group, from 0 to 1."""
    codes = inputs.codes[inputs.known_items]
    valid = codes >= 0
    same = (codes[:, :, None] == codes[:, None]) & valid[:, :, None]
    shared = np.logical_and.accumulate(same, axis=3).sum(3) / valid.sum(2)[:, :, None]
    others = max(1, inputs.items.shape[1] - 1)
    return 1 - (shared.sum(2) - 1) / others


def novelty(inputs: RewardInputs) -> np.ndarray:
    """Self-information of an item in the training part, scaled: 0 for the most frequent, 1 for the least frequent.

    Source: Vargas and Castells 2011, over its range.
    """
    information = -np.log((inputs.counts + 1) / (inputs.counts.sum() + len(inputs.counts)))
    low, high = information.min(), information.max()
    return (information[inputs.known_items] - low) / max(high - low, 1e-12)


def popularity(inputs: RewardInputs) -> np.ndarray:
    """A hit weighted by the inverse root of the item's count, with mean 1 over training events.

    Source: inverse propensity with exponent 1/2, Yang et al. 2018 (arXiv 1808.02342).
    """
    weight = 1 / np.sqrt(inputs.counts + 1)
    mean = float(inputs.counts @ weight) / max(1, int(inputs.counts.sum()))
    return hit(inputs) * (weight[inputs.targets] / mean)[:, None]


REWARDS: dict[str, Reward] = {
    "hit": hit,
    "rank": rank,
    "prefix": prefix,
    "teacher": teacher,
    "diversity": diversity,
    "novelty": novelty,
    "popularity": popularity,
}


def total_reward(
    rewards: Mapping[str, tuple[Reward, float]], inputs: RewardInputs
) -> tuple[np.ndarray, dict[str, float]]:
    """Weighted sum of rewards, and the mean of each.

    Args:
        rewards: name → function and weight.

    Returns:
        (rows, n) float64, 0 where there is no item; and name → mean.

    Raises:
        ModelError: a reward has another shape than `items`, or a value that is not finite.
    """
    total, means, valid = np.zeros(inputs.items.shape), {}, inputs.items >= 0
    for name, (reward, weight) in rewards.items():
        values = np.asarray(reward(inputs), np.float64)
        if values.shape != inputs.items.shape:
            raise ModelError(
                f"the reward '{name}' gave values of the shape {values.shape} for items of the shape "
                f"{inputs.items.shape}: it must give one value for each sampled item."
            )
        bad = np.argwhere(valid & ~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise ModelError(
                f"the reward '{name}' gave {values[row, column]} for item number {int(inputs.items[row, column])} "
                f"({len(bad)} of {int(valid.sum())} values are not finite): every value must be a finite number."
            )
        total += weight * np.where(valid, values, 0)
        means[name] = float(values[valid].mean()) if valid.any() else 0.0
    return total, means
