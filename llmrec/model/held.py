"""Full training that leaves the base's own embedding rows as they were: only rows of new tokens get a gradient.

The rows are cut off where they are used, not by a hook on the parameter, so that it also holds where the parameter is
sharded. Their gradient is zero then, and weight decay must pass them by (`undecayed`), so no step changes a bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def hold(model: PreTrainedModel, new: np.ndarray) -> None:
    """Cut all but some rows off from training, on both sides.

    Args:
        model: changed in place, until `release`; its logits stay the same.
        new: (tokens,) ids whose rows are trained, one after another: they were appended.
    """
    embedding, head = _sides(model)
    first, stop = int(new.min()), int(new.max()) + 1
    assert stop - first == len(new), "ids of new tokens have gaps"
    embedding._held = embedding.register_forward_hook(partial(_looked_up, first, stop))
    head.forward = partial(_scored, head, first, stop)


def release(model: PreTrainedModel) -> None:
    """Undo `hold`; a model that is not held stays as it is."""
    embedding, head = _sides(model)
    if hasattr(embedding, "_held"):
        embedding._held.remove()
        del embedding._held, head.forward


def undecayed(model: Any) -> set[str]:
    """Names of parameters that weight decay must pass by: held rows, and peft's rows of new tokens.

    Decay would move a row that no example used, and so hide that it was not trained.
    """
    parts = [part for part in _sides(model) if hasattr(_sides(model)[0], "_held")]
    held = {id(parameter) for part in parts for parameter in part.parameters(recurse=False)}
    named = model.named_parameters()
    return {name for name, value in named if id(value) in held or "trainable_tokens_delta" in name}


def _sides(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _looked_up(first: int, stop: int, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    trained = (inputs[0] >= first) & (inputs[0] < stop)
    return torch.where(trained[..., None], output, output.detach())


def _scored(head: nn.Linear, first: int, stop: int, states: Tensor) -> Tensor:
    bias = head.bias
    logits = nn.functional.linear(states, head.weight.detach(), None if bias is None else bias.detach())
    new = nn.functional.linear(states, head.weight[first:stop], None if bias is None else bias[first:stop])
    logits[..., first:stop] = new
    return logits
