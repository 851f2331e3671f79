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
    scale: float = 1.0,
    softcap: float | None = None,
    smooth: Smooth | None = None,
) -> Tensor:
    """Log-probability of the token that follows each position.

    Args:
        states: (positions, width) last hidden states.
        targets: (positions,) int64, the token that follows each.
        head: maps (positions, width) to (positions, vocabulary).
        chunk: logits at once; where there are more, they are not kept for the backward pass but computed again.
        scale: what the model multiplies its logits by (Cohere, Granite).
        softcap: the bound that the model bends its logits under (Gemma 2), in logits.
        smooth: label smoothing; then what is returned is a mean of log-probabilities.

    Returns:
        (positions,) float32 log-probabilities in nats.
    """
    most = max(1, chunk // _vocabulary(head))
    score = partial(_score, head=head, scale=scale, softcap=softcap, smooth=smooth)
    if len(targets) > most:
        score = partial(checkpoint, score, use_reentrant=False)
    positions = min(most, _CPU_POSITIONS) if states.device.type == "cpu" else most
    parts = zip(states.split(positions), targets.split(positions), strict=True)
    return torch.cat([score(state, target) for state, target in parts])


def shape_of(config: Any) -> tuple[float, float | None]:
    """What a model of transformers does to its logits after the head: their scale and soft cap."""
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return scale, getattr(config, "final_logit_softcapping", None)


def shaped_logits(states: Tensor, head: Any, scale: float, softcap: float | None) -> Tensor:
    """(positions, vocabulary) float32 logits as the model itself gives them."""
    return shaped(head(states).float(), scale, softcap)


def shaped(logits: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Logits as the model gives them, from what its head alone makes."""
    logits = logits if scale == 1 else logits * scale
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _score(
    states: Tensor, targets: Tensor, head: Any, scale: float, softcap: float | None, smooth: Smooth | None = None
) -> Tensor:
    logits = shaped_logits(states, head, scale, softcap)
    logprobs = -nn.functional.cross_entropy(logits, targets, reduction="none")
    return logprobs if smooth is None else smooth.smoothed(logits, targets, logprobs)


def _vocabulary(head: Any) -> int:
    """Rows of a head; of one that DeepSpeed has cut up, its weight tells nothing."""
    return int(getattr(head, "out_features", None) or head.weight.shape[0])
