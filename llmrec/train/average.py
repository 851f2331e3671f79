"""Averaged weights: a training ends with the mean of its last steps' weights, not with those of its last step.

The mean so far lies inside each checkpoint, so that a killed training goes on with it and ends with the same bits.

Source: Izmailov et al. 2018, arXiv 1803.05407 (the mean of late weights); no batch statistics here to be renewed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from llmrec.train import together

_FILE = "mean.safetensors"
_COUNT = "steps"  # that the mean is of


class Averaged(TrainerCallback):
    """Adds up the trained weights after each of the last steps."""

    def __init__(self, share: float, work: Path) -> None:
        """Average over the last `share` of the steps; `work` is where checkpoints are."""
        self.share, self.work = share, work
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the mean of the checkpoint that training goes on from."""
        file = self.work / f"checkpoint-{state.global_step}" / _FILE
        if state.global_step and file.is_file():
            self.sums = load_file(file)
            self.steps = int(self.sums.pop(_COUNT))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Add this step's weights, if it is one of the last."""
        if state.global_step <= state.max_steps * (1 - self.share):
            return
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                value = parameter.detach().float()
                self.sums[name] = self.sums[name].to(value.device).add_(value) if self.steps else value.clone()
        self.steps += 1

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the sum into the checkpoint, before that is marked as whole."""
        if self.steps and together.is_first():
            kept = {name: value.cpu().contiguous() for name, value in self.sums.items()}
            file = self.work / f"checkpoint-{state.global_step}" / _FILE
            save_file(kept | {_COUNT: torch.tensor(self.steps)}, file)

    def restore(self, model: Any) -> None:
        """Give the model the mean."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.sums:
                    parameter.copy_(self.sums[name] / self.steps)
