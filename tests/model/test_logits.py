"""The output layer against the logits of each model's own forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
)

from llmrec.model.adapt import freeze_base_rows, lora
from llmrec.model.logits import OutputHead, unwrap_peft

SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.4,
}  # fmt: skip
FEW: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2}
CONFIGS = {
    "tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "untied": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "bias": PhiConfig(**SHAPE),
    "soft cap": Gemma2Config(**FEW, head_dim=16, final_logit_softcapping=2.0),
    "no soft cap": Gemma2Config(**FEW, head_dim=16, final_logit_softcapping=None),
    "multiplied": CohereConfig(**FEW, logit_scale=0.3),
    "multiplied, second kind": Cohere2Config(**FEW, logit_scale=3.0),
    "divided": GraniteConfig(**FEW, logits_scaling=4.0),
}
IDS = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(3))
TOKENS = torch.tensor([41, 3, 49, 7])


def made(name: str, change: str) -> Any:
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    if change == "lora":
        model = lora(model, 4, np.arange(40, 50))
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3 if "delta" in key else 0.1)
    if change == "held":
        freeze_base_rows(model, np.arange(40, 50))
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("change", ["", "lora", "held"])
def test_logits_are_those_of_the_models_own_forward_pass(name: str, change: str) -> None:
    model = made(name, change)
    head, truth = OutputHead(model), model(IDS).logits
    states = unwrap_peft(model).get_decoder()(IDS).last_hidden_state
    torch.testing.assert_close(head(states), truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.of_tokens(states, TOKENS), truth[..., TOKENS], rtol=1e-5, atol=1e-5)
    assert head.vocabulary == truth.shape[-1]
    with torch.no_grad():
        torch.testing.assert_close(head.of_tokens(states, TOKENS), truth[..., TOKENS], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tied", "untied", "bias"])
def test_logits_of_some_tokens_give_no_gradient_to_rows_that_are_held(name: str) -> None:
    model = made(name, "held")
    states = unwrap_peft(model).get_decoder()(IDS).last_hidden_state.detach()
    OutputHead(model).of_tokens(states, TOKENS).sum().backward()
    rows = model.get_output_embeddings().weight.grad.abs().sum(1)
    assert (rows[:40] == 0).all() and (rows[[41, 49]] > 0).all()
