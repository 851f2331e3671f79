"""One loss for every way of training: hidden states → supervised positions only → output head → log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmrec.train.packing import IGNORE

CHUNK = 2**25  # logits computed at a time: 128 MiB in float32. Bounds memory, changes no number


def label_logprobs(hidden: Tensor, labels: Tensor, head: Any, chunk: int = CHUNK) -> Tensor:
    """Log-probability of each supervised label, from the hidden state one place before it.

    Args:
        hidden: (rows, length, width) last hidden states.
        labels: (rows, length) int64, the token at its own place; IGNORE where nothing is supervised.
        head: maps (positions, width) to (positions, vocabulary).
        chunk: logits at once; where there are more, they are not kept for the backward pass but computed again.

    Returns:
        (supervised,) float32 log-probabilities in nats, row by row.
    """
    wanted = labels[:, 1:] != IGNORE
    states, targets = hidden[:, :-1][wanted], labels[:, 1:][wanted]
    positions = max(1, chunk // head.weight.shape[0])
    if len(targets) <= positions:
        return _score(states, targets, head)
    parts = zip(states.split(positions), targets.split(positions), strict=True)
    return torch.cat([checkpoint(_score, state, target, head, use_reentrant=False) for state, target in parts])


def _score(states: Tensor, targets: Tensor, head: Any) -> Tensor:
    return -nn.functional.cross_entropy(head(states).float(), targets, reduction="none")
