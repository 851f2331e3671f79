"""A base in 4 bits: NF4 with double quantization, by bitsandbytes, in place; runs on the CPU too."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from llmrec.errors import ModelError


def to_nf4(model: Any) -> Any:
    """Quantize every linear layer but the output head, on the GPU where there is one.

    Embeddings, norms and the head keep their type: new tokens are trained there, and they are a small part.

    Args:
        model: changed in place.

    Raises:
        ModelError: bitsandbytes is not installed.

    Source: Dettmers et al. 2023, arXiv 2305.14314.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise ModelError("adapt: qlora needs bitsandbytes. Install it with: pip install 'llmrec[train]'") from error
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else "cpu"
    head = model.get_output_embeddings()
    for name, layer in [(name, part) for name, part in model.named_modules() if type(part) is nn.Linear]:
        if layer is head:
            continue
        small: Any = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        small.weight = Params4bit(layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
        small.bias = layer.bias
        # On such CPUs a pass in evaluation mode repacks the weights for a kernel without a gradient, and they stay so:
        # a training that validates, or asks its reference, would go on with wrong gradients.
        small.support_avx512bf16_for_cpu = False
        model.set_submodule(name, small.to(device))  # the move is what quantizes
    model.is_loaded_in_4bit = True  # peft asks this, and chooses its adapters by it
    return model
