"""What of a pretrained model is trained: everything, or low-rank adapters and the rows of new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from llmrec.errors import ModelError


def grow(model: PreTrainedModel, rows: int, new: np.ndarray, seed: int) -> None:
    """Give a model embedding rows for new tokens, near the middle of the old ones; old rows stay bit for bit.

    Args:
        model: changed in place, input and (tied or not) output side.
        rows: embedding rows it needs, padding included.
        new: (tokens,) ids of the new tokens.
        seed: of the noise that tells them apart.
    """
    old = _rows(model.get_input_embeddings()).shape[0]
    model.resize_token_embeddings(max(rows, old), mean_resizing=False)
    sides = [_rows(part) for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    for weight in {id(weight): weight for weight in sides}.values():  # tied sides are one
        noise = torch.randn(len(new), weight.shape[1], generator=torch.Generator().manual_seed(seed % 2**63))
        with torch.no_grad():
            known = weight[: int(new.min())].float()
            weight[torch.from_numpy(new)] = (known.mean(0) + 0.5 * known.std(0) * noise).to(weight.dtype)


def lora(model: PreTrainedModel, rank: int, new: np.ndarray) -> Any:
    """Freeze a model but for low-rank adapters on its linear layers and the rows of new tokens, on both sides.

    Args:
        model: with rows for the new tokens.
        rank: of the adapters.
        new: (tokens,) ids of the new tokens.

    Returns:
        The model inside peft's.

    Source: Hu et al. 2021, arXiv 2106.09685; peft's `trainable_token_indices`.
    """
    from peft import LoraConfig, get_peft_model

    tied = _rows(model.get_input_embeddings()) is _rows(model.get_output_embeddings())
    sides = [_name_of(model, model.get_input_embeddings())]
    sides += [] if tied else [_name_of(model, model.get_output_embeddings())]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules="all-linear",
        trainable_token_indices={side: new.tolist() for side in sides},
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def merged(model: Any, folder: Path) -> PreTrainedModel:
    """The plain model that training made; adapters, where there are any, are kept in `folder`/adapter."""
    if not hasattr(model, "merge_and_unload"):
        return model
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return model.merge_and_unload(safe_merge=True)


def moved(before: torch.Tensor, model: PreTrainedModel, new: np.ndarray) -> dict[str, float]:
    """How far the rows of new tokens moved in training.

    Args:
        before: (tokens, width) the rows as training found them.
        model: after training, merged.
        new: (tokens,) their ids.

    Returns:
        Mean distance, and the share of rows that did not move at all.

    Raises:
        ModelError: no row moved: new tokens were frozen, and the model has learnt nothing about items.
    """
    after = _rows(model.get_input_embeddings()).detach()[torch.from_numpy(new)].float().cpu()
    distance = (after - before.float().cpu()).norm(dim=1)
    if not (distance > 0).any():
        raise ModelError(
            "no embedding row of the new item tokens moved in training: they were frozen. "
            "This is a bug; please report it."
        )
    return {
        "mean distance": round(float(distance.mean()), 5),
        "unmoved share": round(float((distance == 0).float().mean()), 5),
    }


def _rows(side: Any) -> torch.nn.Parameter:
    """(vocabulary, width) the rows of an embedding, or of an output head."""
    return side.weight


def _name_of(model: PreTrainedModel, part: torch.nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part).rsplit(".", 1)[-1]
