"""One loss for every way of training: hidden states → supervised positions only → output head → log-probabilities.

Memory is bounded by cutting positions, not the vocabulary: a piece is as many positions as make `chunk` logits, and is
computed again in the backward pass. A cut through the vocabulary would hold as many logits at a time and ask of every
head that it gives out its rows, which adapted, quantised and sharded heads do not. Only past `chunk` tokens of
vocabulary (33 million) would a single position be more than that.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmrec.train.smooth import Smooth

CHUNK = 2**25  # logits computed at a time: 128 MiB in float32. Bounds memory, changes no number
_CPU_POSITIONS = 1024  # at a time on a CPU: larger tensors go back to the system, and each step faults them in


def target_logprobs(
    states: Tensor,
    targets: Tensor,
    head: Any,
    chunk: int = CHUNK,
    smooth: Smooth | None = None,
) -> Tensor:
    """Log-probability of the token that follows each position.

    Args:
        states: (positions, width) last hidden states.
        targets: (positions,) int64, the token that follows each.
        head: maps (positions, width) to (positions, vocabulary) logits, such as `OutputHead`.
        chunk: logits at once; where there are more, they are not kept for the backward pass but computed again.
        smooth: label smoothing; then what is returned is a mean of log-probabilities.

    Returns:
        (positions,) float32 log-probabilities in nats.
    """
    most = max(1, chunk // _vocabulary(head))
    score = partial(_score, head=head, smooth=smooth)
    if len(targets) > most:
        score = partial(checkpoint, score, use_reentrant=False)
    positions = min(most, _CPU_POSITIONS) if states.device.type == "cpu" else most
    parts = zip(states.split(positions), targets.split(positions), strict=True)
    return torch.cat([score(state, target) for state, target in parts])


def _score(states: Tensor, targets: Tensor, head: Any, smooth: Smooth | None) -> Tensor:
    logits = head(states).float()
    logprobs = -nn.functional.cross_entropy(logits, targets, reduction="none")
    return logprobs if smooth is None else smooth.smoothed(logits, targets, logprobs)


def _vocabulary(head: Any) -> int:
    """Rows of a head: an `OutputHead`, or a layer of torch."""
    return int(getattr(head, "vocabulary", None) or head.out_features)
