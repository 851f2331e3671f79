"""Supervised fine-tuning: the loss at supervised positions alone, in the loop that all training stages share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from llmrec.model.logits import OutputHead, plain
from llmrec.recipe import Sft
from llmrec.train import loop
from llmrec.train.loop import Around, Trained
from llmrec.train.loss import target_logprobs
from llmrec.train.packing import IGNORE, PackedRows, collate
from llmrec.train.siblings import Siblings
from llmrec.train.smooth import Smooth
from llmrec.train.watch import Progress


def train(
    model: PreTrainedModel,
    rows: PackedRows,
    stage: Sft,
    seed: int,
    work: Path,
    dropout: float,
    progress: Progress,
    around: Around | None = None,
    smooth: Smooth | None = None,
    siblings: Siblings | None = None,
) -> Trained:
    """Train a model in place on packed examples; other arguments and errors are those of `loop.train`.

    Args:
        smooth: label smoothing, where there is any.
        siblings: what code tokens compete with; None for all tokens.
    """
    way = loop.Way(partial(scored, smooth=smooth, siblings=siblings), collate, begin=rows.set_epoch)
    return loop.train(model, rows, stage, way, seed, work, dropout, progress, around)


def scored(
    model: PreTrainedModel,
    input_ids: Tensor,
    labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    smooth: Smooth | None = None,
    siblings: Siblings | None = None,
    **inputs: Any,
) -> CausalLMOutput:
    """What takes the place of `model.forward` while training: the loss, and no logits at unsupervised positions.

    Returns:
        loss: minus the mean log-probability of supervised tokens, in nats; over the whole step where its count is
            given. Without labels, what the model's own forward pass returns: validation asks for it.
    """
    if labels is None:
        return type(model).forward(model, input_ids=input_ids, **inputs)
    hidden = plain(model).get_decoder()(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
    head = OutputHead(model)
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORE, as_tuple=True)
    states, targets, total = hidden[rows, columns], labels[rows, columns + 1], hidden.new_zeros((), dtype=torch.float32)
    if siblings is not None:
        siblings = siblings.to(states.device)
        depth, beginning = siblings.places(input_ids, rows, columns + 1)
        for place in range(len(siblings.levels)):
            here = torch.nonzero(depth == place)[:, 0]
            if len(here):
                given = states[here], targets[here], place, beginning[here], head.layer.weight, head.scaled
                total = total + siblings.logprobs(*given, smooth.share if smooth else 0.0).sum()
        states, targets = states[depth < 0], targets[depth < 0]
    total = total + target_logprobs(states, targets, head, smooth=smooth).sum()
    return CausalLMOutput(loss=-total / (len(rows) if num_items_in_batch is None else num_items_in_batch))  # type: ignore[arg-type]  # it says FloatTensor, and means any
