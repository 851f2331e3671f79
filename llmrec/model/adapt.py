"""Choose the trained part of a model: all weights, adapters on a plain or 4-bit base, or rows of new tokens only."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrec.errors import ModelError
from llmrec.model.embeddings import embedding_weights
from llmrec.recipe import Adapt, Model


def adapt(model: PreTrainedModel, settings: Model, method: Adapt | None, new: np.ndarray) -> Any:
    """Prepare a model for training by `model.adapt`; rows of new tokens are always trained.

    Args:
        model: with rows for the new tokens; changed in place.
        method: `adapt` of this stage; `settings.adapt` if None.
        new: (tokens,) ids of the new tokens.

    Returns:
        The model to train: itself, or wrapped by peft.

    Raises:
        ModelError: qlora, and bitsandbytes is not installed.
    """
    chosen = method or settings.adapt
    if chosen == "full":
        if not trains_base_rows(settings, method):
            freeze_base_rows(model, new)
        return model
    adapted = ADAPTERS[chosen](model, settings.rank, new)
    # checkpoints hold what is trained, not the whole embedding just because it was resized
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def trains_base_rows(settings: Model, method: Adapt | None) -> bool:
    """Whether training changes embedding rows of the base's own tokens."""
    return (method or settings.adapt) == "full" and (settings.base == "nano" or settings.base_embeddings == "trained")


def lora(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """Freeze a model except low-rank adapters on its linear layers and the rows of (tokens,) new tokens.

    The rows are trained by peft's trainable tokens: only their values, never a whole matrix.

    Source: Hu et al. 2021, arXiv 2106.09685; peft's `trainable_token_indices`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules="all-linear",
        trainable_token_indices={name: new.tolist() for name in _embedding_modules(model)},
        task_type="CAUSAL_LM",
    )
    return restore_head_bias(get_peft_model(model, config))


def qlora(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """As `lora`, over a base whose linear layers, except the output head, are in 4 bits.

    Source: Dettmers et al. 2023, arXiv 2305.14314 (NF4, double quantization); bitsandbytes.
    """
    return lora(_quantize_nf4(model), rank, new)


def embeddings_only(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """Freeze a model except the rows of (tokens,) new tokens, for a first stage; `rank` is not used."""
    from peft import TrainableTokensConfig, get_peft_model

    config = TrainableTokensConfig(
        token_indices=new.tolist(), target_modules=_embedding_modules(model), init_weights=True, task_type="CAUSAL_LM"
    )
    with ignore_tie_warning():
        return restore_head_bias(get_peft_model(model, config))


ADAPTERS = {"lora": lora, "qlora": qlora, "embeddings-only": embeddings_only}


def _embedding_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that hold embedding rows; only the input's if the sides are tied (peft ties them)."""
    modules = [model.get_input_embeddings(), model.get_output_embeddings()][: len(embedding_weights(model))]
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    return [names[id(module)] for module in modules]


def _quantize_nf4(model: Any) -> Any:
    """Quantize every linear layer except the output head in place, on the GPU if there is one.

    Embeddings, norms and the head keep their dtype: new tokens are trained there, and they are a small part.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise ModelError("adapt: qlora needs bitsandbytes. Install it with: pip install 'llmrec[train]'") from error
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else "cpu"
    head = model.get_output_embeddings()
    linear = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    for name, layer in linear:
        if layer is head:
            continue
        quantized: Any = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        quantized.weight = Params4bit(
            layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        quantized.bias = layer.bias
        # On such CPUs a pass in evaluation mode repacks the weights for a kernel without a gradient, and they stay so:
        # a training that validates, or uses its reference model, would go on with wrong gradients.
        quantized.support_avx512bf16_for_cpu = False
        model.set_submodule(name, quantized.to(device))  # the move quantizes
    model.is_loaded_in_4bit = True  # peft chooses its adapters by it
    return model


@contextlib.contextmanager
def ignore_tie_warning() -> Iterator[None]:
    """Hide peft's warning that tied embeddings would come apart: it ties them, and our tests check it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True")
        yield


def restore_head_bias(model: Any) -> Any:
    """Add the bias of an output head (Phi), which peft 0.21's trainable tokens leave out."""
    head = model.get_base_model().get_output_embeddings()
    layer = getattr(head, "token_adapter", head)
    bias = getattr(layer.base_layer, "bias", None) if hasattr(layer, "base_layer") else None
    if bias is None:
        return model

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        plain = layer.merged or layer.disable_adapters  # then peft calls the head itself
        return output if plain else output + bias.to(output.dtype)

    with torch.no_grad():
        at_zero = layer(torch.zeros_like(layer.base_layer.weight[:1]))
    if not at_zero.any():  # a later peft may keep the bias
        head.register_forward_hook(add)
    return model


def freeze_base_rows(model: PreTrainedModel, new: np.ndarray) -> None:
    """Freeze all embedding rows except those of new tokens, on both sides, until `unfreeze`; logits stay the same.

    Rows are detached where they are used, not by a hook on the parameter, so that it also holds for sharded parameters.
    Their gradient is zero then, and without weight decay (`no_decay_names`) no step changes a bit.

    Args:
        model: changed in place.
        new: (tokens,) ids of the new tokens, without gaps.
    """
    embedding, head = _sides(model)
    first, stop = int(new.min()), int(new.max()) + 1
    assert stop - first == len(new), "ids of new tokens have gaps"
    embedding._freeze_hook = embedding.register_forward_hook(partial(_embed, first, stop))
    head.forward = partial(_score, head, first, stop)


def unfreeze(model: PreTrainedModel) -> None:
    """Undo `freeze_base_rows`, if it was done."""
    embedding, head = _sides(model)
    if hasattr(embedding, "_freeze_hook"):
        embedding._freeze_hook.remove()
        del embedding._freeze_hook, head.forward


def no_decay_names(model: Any) -> set[str]:
    """Names of parameters without weight decay: frozen embedding rows, and peft's rows of new tokens.

    Decay would move a row that no example used, and so hide that it was not trained.
    """
    sides = _sides(model)
    frozen = [side for side in sides if hasattr(sides[0], "_freeze_hook")]
    ids = {id(parameter) for side in frozen for parameter in side.parameters(recurse=False)}
    named = model.named_parameters()
    return {name for name, value in named if id(value) in ids or "trainable_tokens_delta" in name}


def _sides(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _embed(first: int, stop: int, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    trained = (inputs[0] >= first) & (inputs[0] < stop)
    return torch.where(trained[..., None], output, output.detach())


def _score(head: nn.Linear, first: int, stop: int, states: Tensor) -> Tensor:
    bias = head.bias
    logits = nn.functional.linear(states, head.weight.detach(), None if bias is None else bias.detach())
    new = nn.functional.linear(states, head.weight[first:stop], None if bias is None else bias[first:stop])
    logits[..., first:stop] = new
    return logits
