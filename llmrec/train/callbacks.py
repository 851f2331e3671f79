"""Callbacks of the training loop: log and checkpoints, early stopping, weight averaging."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from llmrec.errors import ModelError
from llmrec.files import atomic_file, write_text
from llmrec.recipe import Validation
from llmrec.train import distributed
from llmrec.train.log import LOG
from llmrec.train.packing import Order

Progress = Callable[[float], None]
Describe = Callable[[list[int]], str]  # numbers of packed rows → what they hold, in words
Measure = Callable[[Any], dict[str, float]]
"""A model in evaluation mode → metrics of validation, larger is better; the recipe's among them."""
_WHOLE = "whole"  # a file that marks a checkpoint as complete
_MEAN, _COUNT = "mean.safetensors", "steps"
_BEST = "best-{}.safetensors"


class LogCallback(TrainerCallback):
    """Writes log.jsonl, reports progress, marks complete checkpoints, and stops if loss or weights are not finite.

    Attributes:
        metrics: names that the objective logs besides the loss.
        losses: () each, one per pass since the last check, left on the device.
        gather: collects a tensor of every process.
        begin_epoch: called with the number of each epoch, from 0.
    """

    def __init__(self, work: Path, progress: Progress, order: Order, describe: Describe, advice: str) -> None:
        """`advice` says what to change if the training diverges."""
        self.work, self.log, self.progress = work, work / LOG, progress
        self.order, self.describe, self.advice = order, describe, advice
        self.started = time.monotonic()
        self.seconds_before = 0.0
        self.checked = 0
        self.metrics: set[str] = set()
        self.losses: list[Tensor] = []
        self.gather: Callable[[Tensor], Tensor] = lambda losses: losses
        self.begin_epoch: Callable[[int], None] = lambda epoch: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Delete log lines of steps that will be taken again."""
        self.checked = state.global_step
        if not distributed.is_main_process():
            return
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.is_file() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        self.seconds_before = kept[-1]["seconds"] if kept else 0.0
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in kept))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch of order and rows: after a resume accelerate does not do it."""
        epoch = state.global_step // self.order.steps
        self.order.set_epoch(epoch)
        self.begin_epoch(epoch)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Write a line if the loop logs a loss or a metric of validation."""
        known = {"loss", "learning_rate"} | self.metrics
        values = {key: value for key, value in (logs or {}).items() if key in known or key.startswith("valid_")}
        if not distributed.is_main_process() or not values:
            return
        seconds = self.seconds_before + time.monotonic() - self.started
        line = {"step": state.global_step, "epoch": round(state.epoch, 4), **values, "seconds": round(seconds, 2)}
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Report progress, log the last step, and check loss and weights before they are saved."""
        control.should_log |= state.global_step >= state.max_steps
        if control.should_log or control.should_save:
            self._check_losses(args, state)
        if control.should_save:
            self._check_weights(state, model)
        if distributed.is_main_process():
            self.progress(state.global_step / max(1, state.max_steps))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete when every process has written its part."""
        distributed.barrier()
        if distributed.is_main_process():
            write_text(self.work / f"checkpoint-{state.global_step}" / _WHOLE, "")

    def _check_losses(self, args: Any, state: Any) -> None:
        passes = self.gather(torch.stack(self.losses)[None]).isfinite().all(0).tolist()
        self.losses.clear()
        step = self.checked + 1 + (passes.index(False) if False in passes else 0) // args.gradient_accumulation_steps
        self.checked = state.global_step
        if False in passes:
            self._stop(f"the loss is not finite at step {step}", step, state)

    def _check_weights(self, state: Any, model: Any) -> None:
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        # of a sharded parameter, the part in this process
        parts = (p.to_local() if hasattr(p, "to_local") else p.detach() for p in trained)
        if not self.gather(torch.stack([part.isfinite().all() for part in parts]).all()[None]).all():
            step = state.global_step
            self._stop(f"the weights are not finite after step {step}", step, state)

    def _stop(self, what: str, step: int, state: Any) -> None:
        kept = newest_checkpoint(self.work)
        raise ModelError(
            f"{what} of {state.max_steps} ({self.describe(self.order.at(step))}). {self.advice}. "
            + (f"The last good checkpoint is kept: {kept}" if kept else "No checkpoint had been written yet.")
        )


def newest_checkpoint(work: Path) -> Path | None:
    """Return the newest complete checkpoint; the main process deletes incomplete ones."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [folder for folder in checkpoints if (folder / _WHOLE).is_file()]
    for folder in set(checkpoints) - set(whole) if distributed.is_main_process() else ():
        shutil.rmtree(folder)
    return whole[-1] if whole else None


class EarlyStopping(TrainerCallback):
    """Validates every few steps and after the last one, and keeps the trained weights of the best step.

    Metrics are read from the loop's history, which is part of its checkpoints, so a resumed training stops at the same
    step.
    """

    def __init__(self, settings: Validation, measure: Measure, work: Path, at_start: bool = False) -> None:
        """With `at_start`, the initial weights are validated too, and kept if no step improves them."""
        self.settings, self.measure, self.work, self.at_start = settings, measure, work, at_start
        self.key = f"valid_{settings.metric}"
        self.log: Callable[[dict[str, float]], None] = lambda logs: None  # the loop's own, once there is a loop

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Validate the initial weights; a resumed training has done so."""
        if self.at_start and not state.global_step:
            self._validate(state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Validate; keep the weights of a new best step, and stop after too many without one."""
        if state.global_step % self.settings.every == 0 or state.global_step >= state.max_steps:
            self._validate(state, control, model)

    def _validate(self, state: Any, control: Any, model: Any) -> None:
        logged, metrics = control.should_log, dict[str, float]()
        if distributed.is_main_process():
            model.eval()
            with torch.random.fork_rng(), torch.no_grad():
                metrics = {f"valid_{name}": value for name, value in self.measure(model).items()}
            model.train()
        self.log(distributed.broadcast(metrics))
        control.should_log = logged  # otherwise the loss of this step would not be logged
        best, _ = self.best(state.log_history)
        if best == state.global_step and distributed.is_main_process():
            trained = {name: value.detach().cpu() for name, value in model.named_parameters() if value.requires_grad}
            with atomic_file(self.work / _BEST.format(best)) as file:
                save_file({name: value.contiguous() for name, value in trained.items()}, file)
        if self.over(state.log_history):
            control.should_training_stop = control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Delete the weights of older best steps, which only a resume from an older checkpoint needs."""
        kept = _BEST.format(self.best(state.log_history)[0])
        for file in self.work.glob(_BEST.format("*")):
            if distributed.is_main_process() and file.name != kept:
                file.unlink()

    def _validations(self, history: list[dict[str, float]]) -> list[tuple[int, float]]:
        return [(int(line["step"]), line[self.key]) for line in history if self.key in line]

    def best(self, history: list[dict[str, float]]) -> tuple[int, float]:
        """Step and metric of the best validation, the first of equal ones; step 0 before the first."""
        return max(self._validations(history), key=lambda pair: pair[1], default=(0, 0.0))

    def over(self, history: list[dict[str, float]]) -> bool:
        """Whether `patience` validations have passed since the best."""
        best, _ = self.best(history)
        return sum(step > best for step, _ in self._validations(history)) >= self.settings.patience

    def restore(self, model: Any, history: list[dict[str, float]]) -> None:
        """Load the weights of the best step into the model."""
        distributed.barrier()  # the main process has written them
        _copy(load_file(self.work / _BEST.format(self.best(history)[0])), model)


class WeightAverage(TrainerCallback):
    """Averages the weights of the last steps. Checkpoints contain the sum so far, so a resume gives the same bits.

    Source: Izmailov et al. 2018, arXiv 1803.05407; there are no batch statistics to update.
    """

    def __init__(self, share: float, work: Path) -> None:
        """Average over the last `share` of the steps; `work` contains the checkpoints."""
        self.share, self.work = share, work
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the sum from the checkpoint that training resumes from."""
        file = self.work / f"checkpoint-{state.global_step}" / _MEAN
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
        """Write the sum into the checkpoint, before that is marked as complete."""
        if self.steps and distributed.is_main_process():
            sums = {name: value.cpu().contiguous() for name, value in self.sums.items()}
            file = self.work / f"checkpoint-{state.global_step}" / _MEAN
            save_file(sums | {_COUNT: torch.tensor(self.steps)}, file)

    def restore(self, model: Any) -> None:
        """Load the mean into the model."""
        _copy(self.sums, model, self.steps)


def _copy(weights: dict[str, Tensor], model: Any, divisor: int = 1) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name] / divisor)
