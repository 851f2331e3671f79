"""After training: adapters folded into the plain base, and what that costs where training saw a quantized one."""

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
from llmrec.model.adapt import quiet_ties, with_bias
from llmrec.model.held import release
from llmrec.model.loading import explained

VOCABULARY = "vocabulary.json"  # beside an adapter: which vocabulary its rows belong to


class _Vocabulary(TypedDict):
    """vocabulary.json."""

    rows: int
    tokens: int
    hash: str


def merged(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, plain: Callable[[], PreTrainedModel]
) -> PreTrainedModel:
    """The plain model that training made; adapters, where there are any, are kept in `folder`/adapter.

    Args:
        model: as trained.
        tokenizer: with the new tokens.
        folder: of the training stage.
        plain: makes the model as it was before adapters and quantization; called where training saw a quantized one,
            since de-quantized weights are not the base's.
    """
    if not hasattr(model, "merge_and_unload"):
        release(model)
        return model
    save_adapter(model, tokenizer, folder / "adapter")
    if is_quantized(model):
        model = load_adapter(plain(), tokenizer, folder / "adapter")
    return model.merge_and_unload(safe_merge=True)


def is_quantized(model: Any) -> bool:
    """Whether training saw a base in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an adapter folder of peft's, and beside it the vocabulary it was trained with."""
    model.save_pretrained(folder, save_embedding_layers=False)
    write_json(folder / VOCABULARY, _vocabulary(model, tokenizer))


def load_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Any:
    """A base with an adapter, inside peft's model.

    Args:
        model: the base, with rows for the new tokens.
        tokenizer: with the new tokens.
        folder: as `save_adapter` wrote it.

    Raises:
        ModelError: the adapter belongs to another vocabulary, or to a base of another shape.
    """
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors; pickled adapters (.bin) are never read.")
    known, here = read_checked(folder / VOCABULARY, _Vocabulary, kind=ModelError), _vocabulary(model, tokenizer)
    if known != here:
        raise ModelError(
            f"the adapter {folder} was trained with {known['tokens']} tokens in {known['rows']} embedding rows "
            f"(vocabulary {known['hash'][:12]}…), but the base has {here['tokens']} in {here['rows']} "
            f"({here['hash'][:12]}…). Give it the base of its own run, with the item tokens of its own catalogue."
        )
    try:
        with quiet_ties(), explained(folder):
            return with_bias(PeftModel.from_pretrained(model, str(folder)))
    except ModelError as error:
        raise ModelError(f"the adapter does not fit the base: {error} Give it the base of its run.") from error


def cost(trained: Any, plain: PreTrainedModel, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """What de-quantizing costs: the merged model beside the quantized one that was trained, on the same examples.

    Args:
        trained: as trained, over the quantized base.
        plain: the merge into the plain base.
        examples: (length,) tokens and (length,) bool supervised, of each.

    Returns:
        Mean loss in nats per supervised token of both, and the mean and the largest distance of their logits there.
    """
    losses, apart = torch.zeros(2), []
    for tokens, supervised in examples:
        wanted = torch.from_numpy(supervised[1:])
        both = [_logits(model, tokens)[:-1][wanted] for model in (trained, plain)]
        labels = torch.from_numpy(tokens[1:])[wanted]
        losses += torch.stack([torch.nn.functional.cross_entropy(part, labels, reduction="sum") for part in both])
        apart.append((both[0] - both[1]).abs())
    count, away = sum(len(part) for part in apart), torch.cat(apart)
    return {
        "examples": len(examples),
        "loss as trained": round(float(losses[0]) / count, 5),
        "loss merged": round(float(losses[1]) / count, 5),
        "mean logit difference": round(float(away.mean()), 5),
        "largest logit difference": round(float(away.max()), 5),
    }


@torch.no_grad()
def _logits(model: Any, tokens: np.ndarray) -> Tensor:
    place = next(model.parameters()).device
    return model.eval()(input_ids=torch.from_numpy(tokens)[None].to(place)).logits[0].float().cpu()


def _vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    names = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return {"rows": model.get_input_embeddings().weight.shape[0], "tokens": len(names), "hash": hash_json(names)}
