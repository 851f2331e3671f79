"""What is watched while a model trains: the log, progress, whole checkpoints, and numbers that are none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from llmrec.errors import ModelError
from llmrec.files import write_text
from llmrec.train import together
from llmrec.train.order import Order

Progress = Callable[[float], None]
Described = Callable[[list[int]], str]  # numbers of packed rows → what they hold, in words
_WHOLE = "whole"  # a file that marks a checkpoint as written to its end


class Watch(TrainerCallback):
    """Writes log.jsonl, tells progress, marks whole checkpoints, stops on a loss that is not a number."""

    def __init__(self, work: Path, progress: Progress, order: Order, name: str, described: Described) -> None:
        self.work, self.log, self.progress = work, work / "log.jsonl", progress
        self.order, self.name, self.described = order, name, described
        self.started = time.monotonic()
        self.before = 0.0
        self.checked = 0
        self.told: set[str] = set()  # figures that this way to train tells beside the loss
        self.losses: list[Tensor] = []  # () each, one a pass since the last check, left on the device
        self.gather: Callable[[Tensor], Tensor] = lambda losses: losses
        self.begin: Callable[[int], None] = lambda epoch: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop lines of steps that will be taken again."""
        self.checked = state.global_step
        if not together.is_first():
            return
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.is_file() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        self.before = kept[-1]["seconds"] if kept else 0.0
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in kept))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell order and rows their epoch: after a resume accelerate does not reach it through its own shards."""
        self.order.set_epoch(state.global_step // self.order.steps)
        self.begin(state.global_step // self.order.steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """One line for every log of the loop that has a loss, or a figure of validation."""
        known = {"loss", "learning_rate"} | self.told
        values = {key: value for key, value in (logs or {}).items() if key in known or key.startswith("valid_")}
        if not together.is_first() or not values:
            return
        seconds = self.before + time.monotonic() - self.started
        line = {"step": state.global_step, "epoch": round(state.epoch, 4), **values, "seconds": round(seconds, 2)}
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Tell how far it is, see that the last step is logged whatever its number, and let no bad weights be saved."""
        control.should_log |= state.global_step >= state.max_steps
        if control.should_log or control.should_save:
            self._check_losses(args, state)
        if control.should_save:
            self._check_weights(args, state, model)
        if together.is_first():
            self.progress(state.global_step / max(1, state.max_steps))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as whole, once every process has written its part."""
        together.wait()
        if together.is_first():
            write_text(self.work / f"checkpoint-{state.global_step}" / _WHOLE, "")

    def _check_losses(self, args: Any, state: Any) -> None:
        passes = self.gather(torch.stack(self.losses)[None]).isfinite().all(0).tolist()
        self.losses.clear()
        step = self.checked + 1 + (passes.index(False) if False in passes else 0) // args.gradient_accumulation_steps
        self.checked = state.global_step
        if False in passes:
            self._stop(f"the loss is not a number at step {step}", step, args, state)

    def _check_weights(self, args: Any, state: Any, model: Any) -> None:
        trained = (_here(parameter) for parameter in model.parameters() if parameter.requires_grad)
        good = torch.stack([part.isfinite().all() for part in trained]).all()
        if not self.gather(good[None]).all():
            step = state.global_step
            self._stop(f"the weights are no longer numbers after step {step}", step, args, state)

    def _stop(self, what: str, step: int, args: Any, state: Any) -> None:
        kept, held = newest_checkpoint(self.work), self.described(self.order.at(step))
        raise ModelError(
            f"{what} of {state.max_steps} ({held}). Lower {self.name}.learning_rate (now "
            f"{args.learning_rate}) or raise {self.name}.warmup (now {args.warmup_steps}). "
            + (f"The last good checkpoint is kept: {kept}" if kept else "No checkpoint had been written yet.")
        )


def _here(parameter: Any) -> Tensor:
    """A parameter, or the part of it that a sharded one has in this process."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter.detach()


def newest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the first process removes half-written ones."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [folder for folder in found if (folder / _WHOLE).is_file()]
    for folder in set(found) - set(whole):
        if together.is_first():
            shutil.rmtree(folder)
    return whole[-1] if whole else None
