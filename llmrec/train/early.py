"""Early stopping: a figure measured while training, the weights of its best step, an end when nothing improves.

What was measured is read from the loop's own history, which its checkpoints carry: a killed training goes on from one
and stops where an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from llmrec.files import atomic_file
from llmrec.recipe import Validation
from llmrec.train import together

Measure = Callable[
    [Any], dict[str, float]
]  # a model in evaluation mode → figures, larger is better; the recipe's among them
_BEST = "best-{}.safetensors"


class Early(TrainerCallback):
    """Measures every few steps and after the last; keeps the best step's trained weights in the work folder."""

    def __init__(self, settings: Validation, measure: Measure, work: Path, at_start: bool = False) -> None:
        """Look at `at_start` too: then a training that only does harm ends with the weights it began with."""
        self.settings, self.measure, self.work, self.at_start = settings, measure, work, at_start
        self.key = f"valid_{settings.metric}"
        self.tell: Callable[[dict[str, float]], None] = lambda logs: None  # the loop's own log, once there is a loop

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure what is to be improved; a training that goes on has done so."""
        if self.at_start and not state.global_step:
            self._look(state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure, keep the weights of a new best, stop where there has been none for long."""
        if state.global_step % self.settings.every == 0 or state.global_step >= state.max_steps:
            self._look(state, control, model)

    def _look(self, state: Any, control: Any, model: Any) -> None:
        logged = control.should_log
        self.tell(self._measured(model))
        control.should_log = logged  # telling one figure must not keep the loss of this step from being told
        best, _ = self.best(state.log_history)
        if best == state.global_step and together.is_first():
            _keep(model, self.work / _BEST.format(best))
        if self.over(state.log_history):
            control.should_training_stop = control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Older bests go only now: until this checkpoint was whole, a killed training could have needed them."""
        kept = _BEST.format(self.best(state.log_history)[0])
        for file in self.work.glob(_BEST.format("*")):
            if together.is_first() and file.name != kept:
                file.unlink()

    def figures(self, history: list[dict[str, float]]) -> list[tuple[int, float]]:
        """Step and figure of every validation so far."""
        return [(int(line["step"]), line[self.key]) for line in history if self.key in line]

    def best(self, history: list[dict[str, float]]) -> tuple[int, float]:
        """Step and figure of the best validation, the first among equals; step 0 before there is any."""
        return max(self.figures(history), key=lambda found: found[1], default=(0, 0.0))

    def over(self, history: list[dict[str, float]]) -> bool:
        """Whether as many validations as the recipe is patient for have passed since the best."""
        best, _ = self.best(history)
        return sum(step > best for step, _ in self.figures(history)) >= self.settings.patience

    def restore(self, model: Any, history: list[dict[str, float]]) -> None:
        """Give the model the weights of the best step."""
        together.wait()  # the first process has written them
        found = load_file(self.work / _BEST.format(self.best(history)[0]))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in found:
                    parameter.copy_(found[name])

    def _measured(self, model: Any) -> dict[str, float]:
        """The first process measures, all go by what it found; training goes on as if nothing had been measured."""
        found: dict[str, float] = {}
        if together.is_first():
            model.eval()
            with torch.random.fork_rng(), torch.no_grad():
                found = {f"valid_{name}": value for name, value in self.measure(model).items()}
            model.train()
        return together.same(found)


def _keep(model: Any, path: Path) -> None:
    trained = {name: value.detach().cpu() for name, value in model.named_parameters() if value.requires_grad}
    with atomic_file(path) as file:
        save_file({name: value.contiguous() for name, value in trained.items()}, file)
