"""Where models that are trained by gradients compute."""

from __future__ import annotations

import torch

from llmrec.errors import ModelError
from llmrec.recipe.collaborative import Device


def torch_device(device: Device, model: str) -> torch.device:
    """The device that a recipe asks for; `auto` is a GPU where there is one.

    Args:
        device: of the recipe.
        model: its kind, for the message.

    Raises:
        ModelError: a GPU is asked for, and torch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{model}.device: cuda needs a GPU, and torch finds none here. Use device: auto or cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
