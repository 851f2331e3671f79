"""Merge adapters into the plain base after training, and measure the difference if training used a quantized base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import ModelError
from llmrec.files import hash_json, write_json
from llmrec.model.adapt import ignore_tie_warning, restore_head_bias, unfreeze
from llmrec.model.loading import as_model_error

VOCABULARY = "vocabulary.json"  # beside an adapter: the vocabulary of its embedding rows


class _Vocabulary(TypedDict):
    """vocabulary.json."""

    rows: int
    tokens: int
    hash: str


def merge_adapters(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, make_plain: Callable[[], PreTrainedModel]
) -> PreTrainedModel:
    """The trained model without peft; its adapters, if any, are saved in `folder`/adapter.

    Args:
        make_plain: makes the model before adapters and quantization; called if training used a quantized base, because
            dequantized weights differ from the base's.
    """
    if not hasattr(model, "merge_and_unload"):
        unfreeze(model)
        return model
    save_adapter(model, tokenizer, folder / "adapter")
    if is_quantized(model):
        model = load_adapter(make_plain(), tokenizer, folder / "adapter")
    return model.merge_and_unload(safe_merge=True)


def is_quantized(model: Any) -> bool:
    """Whether a model was trained over a 4-bit base."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write peft's adapter folder and the vocabulary that it was trained with."""
    model.save_pretrained(folder, save_embedding_layers=False)
    write_json(folder / VOCABULARY, _vocabulary(model, tokenizer))


def load_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Any:
    """Put an adapter, written by `save_adapter`, onto a base with rows for the new tokens; return peft's model.

    Raises:
        ModelError: the adapter belongs to another vocabulary, or to a base of another shape.
    """
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors; pickled adapters (.bin) are never read.")
    saved, own = read_checked(folder / VOCABULARY, _Vocabulary, kind=ModelError), _vocabulary(model, tokenizer)
    if saved != own:
        raise ModelError(
            f"the adapter {folder} was trained with {saved['tokens']} tokens in {saved['rows']} embedding rows "
            f"(vocabulary {saved['hash'][:12]}…), but the base has {own['tokens']} in {own['rows']} "
            f"({own['hash'][:12]}…). Give it the base of its own run, with the item tokens of its own catalogue."
        )
    try:
        with ignore_tie_warning(), as_model_error(folder):
            return restore_head_bias(PeftModel.from_pretrained(model, str(folder)))
    except ModelError as error:
        raise ModelError(f"the adapter does not fit the base: {error} Give it the base of its run.") from error


def merge_error(
    trained: Any, merged: PreTrainedModel, examples: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """Compare a merged model with the model over a quantized base that was trained, on the same examples.

    Args:
        trained: over the quantized base.
        merged: into the plain base.
        examples: for each, (length,) tokens and (length,) bool supervised.

    Returns:
        Mean loss of both in nats per supervised token, and the mean and the largest difference of their logits there.
    """
    losses, differences = torch.zeros(2), []
    for tokens, supervised in examples:
        mask = torch.from_numpy(supervised[1:])
        both = [_logits(model, tokens)[:-1][mask] for model in (trained, merged)]
        labels = torch.from_numpy(tokens[1:])[mask]
        losses += torch.stack([torch.nn.functional.cross_entropy(part, labels, reduction="sum") for part in both])
        differences.append((both[0] - both[1]).abs())
    count, difference = sum(len(part) for part in differences), torch.cat(differences)
    return {
        "examples": len(examples),
        "loss as trained": round(float(losses[0]) / count, 5),
        "loss merged": round(float(losses[1]) / count, 5),
        "mean logit difference": round(float(difference.mean()), 5),
        "largest logit difference": round(float(difference.max()), 5),
    }


@torch.no_grad()
def _logits(model: Any, tokens: np.ndarray) -> Tensor:
    device = next(model.parameters()).device
    return model.eval()(input_ids=torch.from_numpy(tokens)[None].to(device)).logits[0].float().cpu()


def _vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    names = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return {"rows": model.get_input_embeddings().weight.shape[0], "tokens": len(names), "hash": hash_json(names)}
