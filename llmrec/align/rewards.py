"""Rewards: plain functions from items drawn at some moments to what each is worth, combined by weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import ModelError


@dataclass(frozen=True)
class Answers:
    """What a reward may look at.

    Attributes:
        items: (rows, n) int32 items drawn; -1 where there is none, whose reward counts for nothing.
        log_probs: (rows, n) float32 of each under the policy, in nats.
        taken: (rows,) int32 the item that the user took.
        codes: (items, levels) int32 symbols of every item, padded at the end by -1.
        counts: (items,) int64 events of each item in the training part.
        taught: (rows, items) float32 a teacher's scores after each history; None where no reward needs it.
        users: (rows,) id of each row's user.
        item_ids: id of every item, by item number.
        titles: title of every item.
        read_texts: reads the text of every item; `texts` calls it.
    """

    items: np.ndarray
    log_probs: np.ndarray
    taken: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    taught: np.ndarray | None = None
    users: Sequence[str] = ()
    item_ids: Sequence[str] = ()
    titles: Sequence[str] = ()
    read_texts: Callable[[], Sequence[str]] = tuple

    @property
    def texts(self) -> Sequence[str]:
        """Text of every item, by item number (`items.text` of the recipe)."""
        return self.read_texts()


Reward = Callable[[Answers], np.ndarray]
"""Answers → (rows, n) floats, larger is better."""


def hit(answers: Answers) -> np.ndarray:
    """1 for the item taken, 0 for any other."""
    return (answers.items == answers.taken[:, None]).astype(np.float64)


def rank(answers: Answers) -> np.ndarray:
    """0 for the item taken; the others share -1, the likelier more of it. All 0 in a group without the item taken.

    Source: MiniOneRec's ranking reward, `ndcg_rule_reward`; places are by probability there, too.
    """
    found = hit(answers) > 0
    order = np.argsort(np.argsort(-answers.log_probs, axis=1, kind="stable"), axis=1)
    blame = 1 / np.log2(order + 2)
    return -np.where(found, 0, blame / blame.sum(1, keepdims=True)) * found.any(1, keepdims=True)


def prefix(answers: Answers) -> np.ndarray:
    """1 for the item taken, else the root of the share of its code that an item begins with; 0 for a wrong beginning.

    Source: GREAM's reward for partly right codes; .5, .707, .866 of four levels, as there.
    """
    mine, wanted = answers.codes[np.maximum(answers.items, 0)], answers.codes[answers.taken][:, None]
    shared = np.logical_and.accumulate((mine == wanted) & (wanted >= 0), axis=2).sum(2)
    return np.sqrt(shared / (wanted >= 0).sum(2))


def teacher(answers: Answers) -> np.ndarray:
    """The share of the catalogue that a teacher holds for less likely than the item, from 0 to 1."""
    assert answers.taught is not None, "this reward needs a teacher's scores"
    scores = np.sort(answers.taught, axis=1)
    own = np.take_along_axis(answers.taught, np.maximum(answers.items, 0), 1)
    below = [np.searchsorted(row, values) for row, values in zip(scores, own, strict=True)]
    return np.stack(below) / answers.taught.shape[1]


def diversity(answers: Answers) -> np.ndarray:
    """How little of its code an item shares with the others of its group, from 0 (all the same item) to 1."""
    codes = answers.codes[np.maximum(answers.items, 0)]
    there = codes >= 0
    same = (codes[:, :, None] == codes[:, None]) & there[:, :, None]
    shared = np.logical_and.accumulate(same, axis=3).sum(3) / there.sum(2)[:, :, None]
    others = max(1, answers.items.shape[1] - 1)
    return 1 - (shared.sum(2) - 1) / others


def novelty(answers: Answers) -> np.ndarray:
    """How rare an item is in the training part, from 0 for the most frequent to 1 for one that nobody had.

    Source: self-information, Vargas and Castells 2011, over its range.
    """
    information = -np.log((answers.counts + 1) / (answers.counts.sum() + len(answers.counts)))
    low, high = information.min(), information.max()
    return (information[np.maximum(answers.items, 0)] - low) / max(high - low, 1e-12)


def popularity(answers: Answers) -> np.ndarray:
    """A hit that is worth more where the item is rarer: by the root of its count, 1 on the mean over training events.

    Source: inverse propensity with exponent 1/2, Yang et al. 2018 (arXiv 1808.02342).
    """
    worth = 1 / np.sqrt(answers.counts + 1)
    mean = float(answers.counts @ worth) / max(1, int(answers.counts.sum()))
    return hit(answers) * (worth[answers.taken] / mean)[:, None]


REWARDS: dict[str, Reward] = {
    "hit": hit,
    "rank": rank,
    "prefix": prefix,
    "teacher": teacher,
    "diversity": diversity,
    "novelty": novelty,
    "popularity": popularity,
}


def judged(rewards: Mapping[str, tuple[Reward, float]], answers: Answers) -> tuple[np.ndarray, dict[str, float]]:
    """The weighted sum of rewards, and the mean of each.

    Args:
        rewards: name → function and weight.
        answers: what was drawn.

    Returns:
        (rows, n) float64, 0 where there is no item; and name → mean.

    Raises:
        ModelError: a reward gives another number of values than there are items, or one that is no number.
    """
    total, means, there = np.zeros(answers.items.shape), {}, answers.items >= 0
    for name, (reward, weight) in rewards.items():
        values = np.asarray(reward(answers), np.float64)
        if values.shape != answers.items.shape:
            raise ModelError(
                f"the reward '{name}' gave values of the shape {values.shape} for items of the shape "
                f"{answers.items.shape}: it must give one value for each item drawn."
            )
        bad = there & ~np.isfinite(values)
        if bad.any():
            row, place = (int(at[0]) for at in np.nonzero(bad))
            raise ModelError(
                f"the reward '{name}' gave {values[row, place]} for item number {int(answers.items[row, place])} "
                f"({int(bad.sum())} of {int(there.sum())} values are no numbers): every value must be finite."
            )
        total += weight * np.where(there, values, 0)
        means[name] = float(values[there].mean()) if there.any() else 0.0
    return total, means
