"""What of a model is trained: everything, low-rank adapters on a plain or a 4-bit base, or rows of new tokens alone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrec.model.held import hold
from llmrec.model.rows import sides
from llmrec.recipe import Adapt, Model


def adapt(model: PreTrainedModel, settings: Model, method: Adapt | None, new: np.ndarray) -> Any:
    """Choose what training changes. New rows are trained in every way, and beside them old ones at most in full.

    Args:
        model: with rows for the new tokens; changed in place.
        settings: the recipe's part.
        method: what this stage trains; `settings.adapt` otherwise.
        new: (tokens,) ids of the new tokens.

    Returns:
        The model to train: itself, or inside peft's.

    Raises:
        ModelError: qlora, and bitsandbytes is not installed.
    """
    chosen = method or settings.adapt
    if chosen == "full":
        if not old_rows_trained(settings, method):
            hold(model, new)
        return model
    adapted = ADAPTERS[chosen](model, settings.rank, new)
    # checkpoints hold what is trained, and not the whole embedding because it has grown
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def old_rows_trained(settings: Model, method: Adapt | None) -> bool:
    """Whether training changes embedding rows of tokens that are not new."""
    return (method or settings.adapt) == "full" and (settings.base == "nano" or settings.base_embeddings == "trained")


def lora(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """Freeze a model but for low-rank adapters on its linear layers and the rows of new tokens, on both sides.

    The rows train through peft's trainable tokens: their values beside the matrix, never a whole matrix.

    Args:
        model: with rows for the new tokens.
        rank: of the adapters.
        new: (tokens,) ids of the new tokens.

    Returns:
        The model inside peft's.

    Source: Hu et al. 2021, arXiv 2106.09685; peft's `trainable_token_indices`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules="all-linear",
        trainable_token_indices={side: new.tolist() for side in _places(model)},
        task_type="CAUSAL_LM",
    )
    return with_bias(get_peft_model(model, config))


def qlora(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """As `lora`, over a base whose linear layers, but for the output head, are held in 4 bits.

    Source: Dettmers et al. 2023, arXiv 2305.14314 (NF4, double quantization); bitsandbytes.
    """
    from llmrec.model.quantize import to_nf4

    return lora(to_nf4(model), rank, new)


def embeddings_only(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """Freeze a model but for the rows of new tokens, on both sides: a first stage before the others."""
    from peft import TrainableTokensConfig, get_peft_model

    config = TrainableTokensConfig(
        token_indices=new.tolist(), target_modules=_places(model), init_weights=True, task_type="CAUSAL_LM"
    )
    with quiet_ties():
        return with_bias(get_peft_model(model, config))


ADAPTERS = {"lora": lora, "qlora": qlora, "embeddings-only": embeddings_only}


def _places(model: PreTrainedModel) -> list[str]:
    """Names of the modules that hold embedding rows; of the input alone where the sides are tied (peft ties them)."""
    parts = [model.get_input_embeddings(), model.get_output_embeddings()][: len(sides(model))]
    return [next(name for name, module in model.named_modules() if module is part).rsplit(".", 1)[-1] for part in parts]


@contextlib.contextmanager
def quiet_ties() -> Iterator[None]:
    """Silence for a warning of peft's, that tied sides would come apart: it then ties them, and our tests hold it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True")
        yield


def with_bias(model: Any) -> Any:
    """Put back the bias of an output head (Phi), which peft 0.21's trainable tokens leave out."""
    head = model.get_base_model().get_output_embeddings()
    layer = getattr(head, "token_adapter", head)
    bias = getattr(layer.base_layer, "bias", None) if hasattr(layer, "base_layer") else None
    if bias is None:
        return model

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        plain = layer.merged or layer.disable_adapters  # then peft calls the head itself
        return output if plain else output + bias.to(output.dtype)

    with torch.no_grad():
        nothing = layer(torch.zeros_like(layer.base_layer.weight[:1]))
    if not nothing.any():  # a later peft may keep the bias
        head.register_forward_hook(add)
    return model
