"""The output layer of a causal language model: hidden states to logits, equal to those of the model's forward pass.

After the linear map some models scale their logits (Cohere multiplies by `logit_scale`, Granite divides by
`logits_scaling`) or apply a soft cap (Gemma 2: cap · tanh(logits / cap)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def unwrap_peft(model: Any) -> PreTrainedModel:
    """The transformers model inside a peft model, adapters included; a plain model is returned as it is."""
    return getattr(model, "get_base_model", lambda: model)()


class OutputHead:
    """The output layer of a transformers model, plain or inside peft's; its weights may change later.

    Attributes:
        layer: maps (…, width) hidden states to (…, vocabulary).
        scale: factor of the logits.
        softcap: bound of the logits, or None.
    """

    def __init__(self, model: Any) -> None:
        inner = unwrap_peft(model)
        config: Any = inner.config.get_text_config()
        self.layer: Any = inner.get_output_embeddings()
        self.scale: float = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)

    def __call__(self, states: Tensor) -> Tensor:
        """(…, vocabulary) float32 logits of (…, width) hidden states."""
        return self.scale_logits(self.layer(states).float())

    def of_tokens(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(…, n) float32 logits of (n,) tokens only, for (…, width) hidden states."""
        layer = self.layer
        frozen = "forward" in vars(layer) and torch.is_grad_enabled()  # by `freeze_base_rows`: no gradient to old rows
        # An adapted or quantized layer has no plain rows; for all tokens the whole layer is as cheap.
        if type(layer) is not nn.Linear or frozen or len(tokens) == self.vocabulary:
            return self(states)[..., tokens]
        bias = None if layer.bias is None else layer.bias[tokens].float()
        return self.scale_logits(nn.functional.linear(states.float(), layer.weight[tokens].float(), bias))

    def scale_logits(self, logits: Tensor) -> Tensor:
        """Apply the model's scale and soft cap to the output of the linear map."""
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @property
    def vocabulary(self) -> int:
        """Rows of the layer; from `out_features` if possible, because DeepSpeed empties sharded weights."""
        return int(getattr(self.layer, "out_features", None) or self.layer.weight.shape[0])
