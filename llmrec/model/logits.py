"""The output layer of a causal language model: hidden states to logits, equal to those of the model's own forward pass.

After the linear map some models scale their logits (Cohere multiplies by `logit_scale`, Granite divides by
`logits_scaling`) or bound them with a soft cap (Gemma 2: cap · tanh(logits / cap)). Training, alignment, decoding and
rating take logits from here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def plain(model: Any) -> PreTrainedModel:
    """The model of transformers inside a model of peft, adapters in place; a plain model is returned as it is."""
    return getattr(model, "get_base_model", lambda: model)()


class OutputHead:
    """The output layer of a model, with its logit scale and soft cap.

    Attributes:
        layer: maps (…, width) hidden states to (…, vocabulary).
        scale: factor of the logits.
        softcap: bound of the logits, or None.
    """

    def __init__(self, model: Any) -> None:
        """Use the output layer of a model of transformers, plain or inside peft's; its weights may go on changing."""
        inner = plain(model)
        config: Any = inner.config.get_text_config()
        self.layer: Any = inner.get_output_embeddings()
        self.scale: float = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)

    def __call__(self, states: Tensor) -> Tensor:
        """(…, vocabulary) float32 logits after (…, width) hidden states."""
        return self.scaled(self.layer(states).float())

    def of_tokens(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(…, n) float32 logits of (n,) tokens alone, after (…, width) hidden states."""
        layer = self.layer
        cut_off = "forward" in vars(layer) and torch.is_grad_enabled()  # `held` lets no gradient reach old rows
        # Adapted or quantised: rows cannot be taken out of its weight. For all tokens there is no need to.
        if type(layer) is not nn.Linear or cut_off or len(tokens) == self.vocabulary:
            return self(states)[..., tokens]
        bias = None if layer.bias is None else layer.bias[tokens].float()
        return self.scaled(nn.functional.linear(states.float(), layer.weight[tokens].float(), bias))

    def scaled(self, logits: Tensor) -> Tensor:
        """Logits of the model, from what the linear map gives."""
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @property
    def vocabulary(self) -> int:
        """Rows of the layer; `out_features` where there is one, since DeepSpeed leaves the weight of a part empty."""
        return int(getattr(self.layer, "out_features", None) or self.layer.weight.shape[0])
