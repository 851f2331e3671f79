"""What new tokens cost in trained parameters and optimizer memory: their rows alone, or whole matrices.

Whole matrices are what `modules_to_save=[embed_tokens, lm_head]` trains, the way most recipes on the web add tokens
under LoRA. Both are built by peft, take one step of AdamW, and are counted.

Part `memory` of train.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import train_bare as bare
import train_setting as setting
from llmrec import resources
from llmrec.model.adapt import lora
from llmrec.recipe_file import load
from llmrec.train.packing import PackedRows, collate
from shared import tell

AIM = 0.1
_ADAPTER = "lora_"  # what peft calls a low-rank adapter's parameters; the rest of what is trained is there for tokens


def measure(work: Path) -> dict[str, Any]:
    """Count both on SmolLM2 with the tokens of MovieLens 100K's catalogue.

    Args:
        work: folder for the prepared run.
    """
    overrides = ["model.adapt=full", "train.0.batch=2", "items.encoder=hashing"]
    tell("the base with rows for new tokens")
    return compare(setting.prepare(load(resources.recipe_path("ml100k-smollm2"), overrides), work / "smollm2-memory"))


def compare(ready: setting.Setting) -> dict[str, Any]:
    """Count every way on one model that has rows for its new tokens and no adapters yet."""
    sides = [side.weight for side in (ready.model.get_input_embeddings(), ready.model.get_output_embeddings())]
    found = {}
    for name, wrap in WAYS.items():
        tell(name)
        found[name] = count(wrap(copy.deepcopy(ready.model), ready.recipe.model.rank, ready.tokens), ready)
    return {
        "new tokens": len(ready.tokens),
        "embedding rows": len(sides[0]),
        "tied": sides[0] is sides[1],
        **found,
        **{f"ours over {name}": _shares(found["ours"], found[name]) for name in found if name != "ours"},
        "aim": AIM,
    }


def whole_matrices(model: Any, rank: int, new: np.ndarray, tied: bool = False) -> Any:
    """The same adapters, with both vocabulary matrices trained whole; peft trains one for both only when told to."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        modules_to_save=["embed_tokens", "lm_head"],
        ensure_weight_tying=tied,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


WAYS: dict[str, Callable[..., Any]] = {
    "ours": lora,
    "whole matrices": whole_matrices,
    "whole matrices, kept tied": partial(whole_matrices, tied=True),
}


def _shares(ours: dict[str, int], theirs: dict[str, int]) -> dict[str, float]:
    return {key: round(ours[key] / theirs[key], 5) for key in ours}


def count(model: nn.Module, ready: setting.Setting) -> dict[str, int]:
    """Trained parameters, and bytes of AdamW's state after a step: of everything, and of what is there for tokens."""
    stage = ready.stage
    adam = bare.optimizer(model, stage)
    rows = PackedRows(ready.encoded[: stage.batch], 1, np.random.default_rng(0))
    bare.step(model.train(), collate([rows[row] for row in range(stage.batch)]), adam, 1e-3, "fp32")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    tokens = {name: parameter for name, parameter in trained.items() if _ADAPTER not in name}
    return {
        "trained parameters": sum(p.numel() for p in trained.values()),
        "trained parameters for tokens": sum(p.numel() for p in tokens.values()),
        "optimizer bytes": sum(_bytes(adam, p) for p in trained.values()),
        "optimizer bytes for tokens": sum(_bytes(adam, p) for p in tokens.values()),
    }


def _bytes(adam: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    values = [value for value in adam.state[parameter].values() if torch.is_tensor(value)]
    return sum(value.numel() * value.element_size() for value in values)
