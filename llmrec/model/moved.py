"""After training: how far the rows of new tokens moved, side by side; rows that stayed behind stop the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.errors import ModelError
from llmrec.model.rows import sides
from llmrec.model.vocabulary import MENTION


@dataclass(frozen=True)
class Before:
    """Embedding rows as training found them.

    Attributes:
        new: side → (tokens, width) rows of new tokens.
        old: side → hash of the rows below them.
    """

    new: dict[str, Tensor]
    old: dict[str, str]

    @classmethod
    def of(cls, model: PreTrainedModel, new: np.ndarray) -> Before:
        """Remember a plain model's rows."""
        ids, found = torch.from_numpy(new), sides(model)
        return cls(
            {side: weight.detach()[ids].float().cpu() for side, weight in found.items()},
            {side: _hash(weight[: int(new.min())]) for side, weight in found.items()},
        )


def moved(
    before: Before,
    model: PreTrainedModel,
    new: np.ndarray,
    tokens: Sequence[str],
    used: Mapping[str, np.ndarray],
    spare: np.ndarray,
    old_trained: bool,
) -> dict[str, Any]:
    """How far the rows of new tokens moved in training.

    Args:
        before: of the model before training.
        model: after training, merged.
        new: (tokens,) their ids.
        tokens: (tokens,) their names.
        used: `input` and `output` → (tokens,) bool, those that training used there; tied sides are used by both.
        spare: (tokens,) bool, those that no item has.
        old_trained: whether the other rows were trained as well.

    Returns:
        For each side, for tokens of items and for spares apart: how many, the mean distance, how many did not move.

    Raises:
        ModelError: a row that was used did not move, or an old row moved that was to stay.
    """
    after, facts, tied = Before.of(model, new), {}, len(before.new) == 1
    in_codes = np.array([token != MENTION for token in tokens])
    for side, rows in before.new.items():
        distance = (after.new[side] - rows).norm(dim=1).numpy()
        _assert_moved(side, distance, tokens, used["input"] | used["output"] if tied else used[side])
        if not old_trained and after.old[side] != before.old[side]:
            raise ModelError(
                f"embedding rows of the base's own tokens changed on the {side} side though they were to stay. "
                "Set model.base_embeddings: trained if they may change; otherwise this is a bug, please report it."
            )
        facts[side] = _figures(distance[in_codes & ~spare])
        if (in_codes & spare).any():
            facts[side]["spares"] = _figures(distance[in_codes & spare])
    return facts


def _assert_moved(side: str, distance: np.ndarray, tokens: Sequence[str], used: np.ndarray) -> None:
    stuck = np.flatnonzero(used & ~(distance > 0))
    if len(stuck):
        named = ", ".join(tokens[token] for token in stuck[:5]) + ("…" if len(stuck) > 5 else "")
        raise ModelError(
            f"{len(stuck)} of {int(used.sum())} item tokens that training used did not move on the {side} side "
            f"({named}), so the model has learnt nothing about their items. Either training was next to nothing (raise "
            "train.N.learning_rate or train.N.epochs) or their rows were frozen: then it is a bug, please report it."
        )


def _figures(distance: np.ndarray) -> dict[str, Any]:
    mean = float(distance.mean()) if len(distance) else 0.0
    return {"tokens": len(distance), "mean distance": round(mean, 5), "unmoved": int((distance == 0).sum())}


def _hash(rows: Tensor) -> str:
    data: Any = rows.detach().cpu().contiguous().view(torch.uint8).numpy()  # hashed where it lies, not copied
    return hashlib.sha256(data).hexdigest()
