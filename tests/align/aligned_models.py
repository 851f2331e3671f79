"""Tiny models of several families, and the truth about answers: each scored in a row of its own, by the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 60
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": False},
    "gemma2": {"sliding_window": 5, "final_logit_softcapping": 3.0},  # one layer of each kind; a window within prompts
}


def family(name: str, seed: int = 0, **given: Any) -> Any:
    """A model with random weights, large enough to tell tokens apart."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SHAPE | FAMILIES[name] | given))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    return model.eval()


def cases(seed: int = 0, rows: int = 3, answers: int = 4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Prompts of unlike length, and answers to each of two to four tokens, padded by -1."""
    draw = np.random.default_rng(seed)
    prompts = [draw.integers(1, VOCABULARY, length) for length in draw.integers(2, 12, rows)]
    tables = [draw.integers(1, VOCABULARY, (answers, 4)) for _ in prompts]
    for table in tables:
        table[0, 2:], table[1, 3:] = -1, -1
    return prompts, tables


def separate(model: Any, prompts: list[np.ndarray], answers: list[np.ndarray]) -> list[Tensor]:
    """For each prompt (answers, longest, vocabulary) logits of the model's own forward pass, a row an answer."""
    found = []
    for prompt, table in zip(prompts, answers, strict=True):
        rows = []
        for answer in table:
            ids = torch.from_numpy(np.concatenate([prompt, answer[answer >= 0]]))
            logits = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].float()
            rows.append(torch.nn.functional.pad(logits, (0, 0, 0, len(answer) - len(logits))))
        found.append(torch.stack(rows))
    return found


def gradients(model: Any, value: Tensor) -> dict[str, Tensor]:
    """Of a value, by parameter; the model is left without any."""
    model.zero_grad()
    value.backward()
    found = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    model.zero_grad()
    return found
