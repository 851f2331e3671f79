"""A look before training: do draws give valid, different items whose rewards differ? If not, why, and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrec.align.reinforcing import Player
from llmrec.errors import ModelError

LOOKED_AT = 64  # moments


def preflight(player: Player, model: Any, name: str) -> dict[str, float]:
    """Draw at some moments with the model that training begins with.

    Args:
        player: draws and judges.
        model: as it will be trained.
        name: of the stage in the recipe, for messages.

    Returns:
        Shares: of draws that are items, of different ones within a group, of groups that hold the item taken, of groups
        whose rewards differ; and the mean reward.

    Raises:
        ModelError: nothing could be learnt, and why.
    """
    moments = np.linspace(0, len(player.ground.moments) - 1, min(LOOKED_AT, len(player.ground.moments))).astype(int)
    group, answers, rewards, means = player.play(model, moments, -1)
    there, settings = group.items >= 0, player.settings
    different = [len(np.unique(row[row >= 0])) / max(1, (row >= 0).sum()) for row in group.items]
    spread = 1 - float(player.gains(group, answers, rewards)[1].mean())
    found = {
        "moments": len(moments),
        "valid": float(there.mean()),
        "different": float(np.mean(different)),
        "hits": float((group.items == answers.taken[:, None]).any(1).mean()),
        "groups that differ": spread,
        "reward": float(rewards[there].mean()) if there.any() else 0.0,
    }
    if not there.any():
        raise ModelError(
            f"{name}: at none of {len(moments)} moments may any item be recommended: every history holds the whole "
            "catalogue. Set evaluate.exclude_seen: false, or give more items."
        )
    if max(different) * settings.group_size <= 1.5:
        raise ModelError(
            f"{name}: all {settings.group_size} draws of every group are one item, so nothing can be compared. Raise "
            f"{name}.temperature (now {settings.temperature}), or set {name}.sampling: without-replacement."
        )
    if not spread:
        told = ", ".join(f"{reward} {mean:.4g}" for reward, mean in means.items())
        raise ModelError(
            f"{name}: within each of {len(moments)} groups all rewards are equal (means: {told}), so there is nothing "
            f"to learn from. The target item is in {found['hits']:.1%} of the groups: train the stage before longer, "
            f"raise {name}.group_size (now {settings.group_size}), or add a reward that differs between misses, such "
            f"as {name}.rewards.prefix=0.5."
        )
    return {key: round(value, 5) for key, value in found.items()}
