"""Tiny random models of every family, random catalogues, and the truth computed the slow way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SYMBOLS = 12
TOKENS = np.random.default_rng(5).permutation(np.arange(70, 95))[:SYMBOLS]  # symbols are not tokens, nor in their order
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.4,  # large, so that scores differ clearly between items
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 6}),
    "phi": (PhiForCausalLM, PhiConfig, {}),
    "phi3": (Phi3ForCausalLM, Phi3Config, {"sliding_window": 7}),
}


@lru_cache
def tiny(family: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> torch.nn.Module:
    """A two-layer random model of a family; sliding windows are shorter than the prompts."""
    torch.manual_seed(1)
    model, config, own = FAMILIES[family]
    return model(config(**SIZES, **own, attn_implementation=attention)).to(dtype).eval()


def random_codes(random: np.random.Generator, items: int) -> list[tuple[int, ...]]:
    """Distinct codes of two to four levels, none the beginning of another, in random order."""
    codes: set[tuple[int, ...]] = set()
    while len(codes) < items:
        code = tuple(int(s) for s in random.integers(0, SYMBOLS, random.integers(2, 5)))
        prefixes = {code[:length] for length in range(1, len(code) + 1)}
        if not prefixes & codes and not any(other[: len(code)] == code for other in codes):
            codes.add(code)
    return [tuple(code) for code in random.permutation(np.array(list(codes), object))]


def random_prompts(random: np.random.Generator, rows: int) -> list[list[int]]:
    """Prompts of one to sixteen tokens, none of them a code token."""
    return [random.integers(3, 70, random.integers(1, 17)).tolist() for _ in range(rows)]


def brute_force(
    model: torch.nn.Module,
    codes: Sequence[tuple[int, ...]],
    prompt: Sequence[int],
    normalize_over: str,
    allowed: Sequence[int] | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """(items,) log-probability of every item by a plain forward pass each over prompt and code; -inf if not allowed."""
    items = range(len(codes)) if allowed is None else allowed
    scores = np.full(len(codes), -np.inf)
    for item in items:
        ids = [*prompt, *(int(TOKENS[symbol]) for symbol in codes[item])]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double().numpy() / temperature
        scores[item] = 0.0
        for level, symbol in enumerate(codes[item]):
            row = logits[len(prompt) - 1 + level]
            among = items if normalize_over == "allowed" else range(len(codes))
            siblings = {codes[i][level] for i in among if codes[i][:level] == codes[item][:level]}
            over = row[TOKENS[sorted(siblings)]] if normalize_over != "vocabulary" else row
            scores[item] += row[TOKENS[symbol]] - np.log(np.exp(over - over.max()).sum()) - over.max()
    return scores
