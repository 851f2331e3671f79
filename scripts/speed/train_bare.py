"""A bare PyTorch training loop: what our trainer is measured against, and what both ways of feeding are trained by.

Nothing of transformers' Trainer, of accelerate or of our loss is in it. It scores the supervised positions alone, with
the optimizer, schedule and precision of `train/sft.py`: from the same model and rows it makes the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrec.recipe import Sft
from llmrec.train.packing import IGNORE

Batch = dict[str, Tensor]


def optimizer(model: nn.Module, stage: Sft) -> torch.optim.AdamW:
    """AdamW on what is trained, fused as in the loop of transformers, without decay of norms and biases."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98), fused=True)


def step(model: Any, batch: Batch, adam: torch.optim.AdamW, rate: float, precision: str) -> Tensor:
    """One step of training; on a GPU nobody waits for it.

    Args:
        model: trained in place.
        batch: (rows, length) input_ids and labels, and position_ids where rows are packed.
        adam: from `optimizer`.
        rate: the learning rate of this step.
        precision: fp32 or bf16 (autocast; weights stay in float32).

    Returns:
        The loss, in nats per supervised token.
    """
    place = next(model.parameters()).device
    inputs = {name: value.to(place) for name, value in batch.items()}
    labels = inputs.pop("labels")
    with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = _loss(model, inputs, labels)
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], 1.0)
    for group in adam.param_groups:
        group["lr"] = rate
    adam.step()
    adam.zero_grad()
    return loss.detach()


def train(model: Any, batches: Iterator[Batch], steps: int, stage: Sft, tell: Callable[[], None]) -> None:
    """All steps of a stage: warm-up, then a cosine to nothing.

    Args:
        model: trained in place, on the GPU where there is one.
        batches: at least `steps` of them.
        steps: to take.
        stage: the recipe's part.
        tell: called after every step.
    """
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    adam, warm = optimizer(model, stage), math.ceil(stage.warmup * steps)
    for number, batch in zip(range(steps), batches, strict=False):
        done = (number - warm) / max(1, steps - warm)
        share = number / warm if number < warm else 0.5 * (1 + math.cos(math.pi * done))
        step(model, batch, adam, stage.learning_rate * share, stage.precision)
        tell()


def plain(model: Any) -> PreTrainedModel:
    """The model of transformers inside peft's, adapters in place; a plain model is itself."""
    return getattr(model, "get_base_model", lambda: model)()


def _loss(model: Any, inputs: Batch, labels: Tensor) -> Tensor:
    inner = plain(model)
    hidden = inner.get_decoder()(**inputs, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORE
    logits = inner.get_output_embeddings()(hidden[wanted])
    return nn.functional.cross_entropy(logits.float(), labels[:, 1:][wanted])
