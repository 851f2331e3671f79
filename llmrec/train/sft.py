"""Supervised fine-tuning: the loss at supervised positions alone, in the loop that all training stages share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from llmrec.recipe import Sft
from llmrec.train import loop
from llmrec.train.loop import Around, Trained, plain
from llmrec.train.loss import label_logprobs, shape_of
from llmrec.train.packing import PackedRows, collate
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
) -> Trained:
    """Train a model in place on packed examples; other arguments and errors are those of `loop.train`.

    Args:
        smooth: label smoothing, where there is any.
    """
    way = loop.Way(partial(scored, smooth=smooth) if smooth else scored, collate, begin=rows.set_epoch)
    return loop.train(model, rows, stage, way, seed, work, dropout, progress, around)


def scored(
    model: PreTrainedModel,
    input_ids: Tensor,
    labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    smooth: Smooth | None = None,
    **inputs: Any,
) -> CausalLMOutput:
    """What takes the place of `model.forward` while training: the loss, and no logits at unsupervised positions.

    Returns:
        loss: minus the mean log-probability of supervised tokens, in nats; over the whole step where its count is
            given. Without labels, what the model's own forward pass returns: validation asks for it.
    """
    if labels is None:
        return type(model).forward(model, input_ids=input_ids, **inputs)
    inner = plain(model)
    hidden = inner.get_decoder()(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
    scale, softcap = shape_of(inner.config.get_text_config())
    head = inner.get_output_embeddings()
    logprobs = label_logprobs(hidden, labels, head, scale=scale, softcap=softcap, smooth=smooth)
    count = len(logprobs) if num_items_in_batch is None else num_items_in_batch
    return CausalLMOutput(loss=-logprobs.sum() / count)  # type: ignore[arg-type]  # it says FloatTensor, and means any
