"""Supervised fine-tuning: transformers' training loop around our own loss, with checkpoints to go on from."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

from llmrec.errors import ModelError
from llmrec.files import write_text
from llmrec.recipe import Sft
from llmrec.train.loss import label_logprobs
from llmrec.train.packing import PackedRows, collate

Progress = Callable[[float], None]
_WHOLE = "whole"  # a file that marks a checkpoint as written to its end


def train(
    model: PreTrainedModel, rows: PackedRows, stage: Sft, seed: int, work: Path, dropout: float, progress: Progress
) -> None:
    """Train a model in place; goes on from the newest whole checkpoint in `work`.

    Args:
        model: trained in place.
        rows: packed examples.
        stage: the recipe's part.
        seed: of order and dropout.
        work: folder for checkpoints and log.jsonl.
        dropout: probability of dropping outputs of attention and feed-forward blocks and embeddings.
        progress: told the share done, 0 to 1.

    Raises:
        ModelError: the loss is not a number.
    """
    work.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(stage, seed, work)
    start = _newest_checkpoint(work)
    with _own_loss(model), _dropped(model, dropout):
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[_Watch(work, progress)]
        )
        trainer.remove_callback(_printer(trainer))
        trainer.train(resume_from_checkpoint=None if start is None else str(start))


def _arguments(stage: Sft, seed: int, work: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=stage.batch,
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup,
        bf16=stage.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide the loss that `_Watch` stops on
        save_steps=stage.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        report_to=[],
        disable_tqdm=True,
    )


def scored(
    model: PreTrainedModel,
    input_ids: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    **inputs: Any,
) -> CausalLMOutput:
    """What takes the place of `model.forward` while training: the loss, and no logits at unsupervised positions.

    Returns:
        loss: minus the mean log-probability of supervised tokens, in nats; over the whole step where its count is
            given.
    """
    inner = plain(model)
    hidden = inner.get_decoder()(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
    logprobs = label_logprobs(hidden, labels, inner.get_output_embeddings())
    count = len(logprobs) if num_items_in_batch is None else num_items_in_batch
    return CausalLMOutput(loss=-logprobs.sum() / count)  # type: ignore[arg-type]  # it says FloatTensor, and means any


def plain(model: Any) -> PreTrainedModel:
    """The model of transformers that peft's wraps, adapters in place; a plain model is itself."""
    return getattr(model, "get_base_model", lambda: model)()


@contextlib.contextmanager
def _own_loss(model: Any) -> Iterator[None]:
    model.forward = partial(scored, model)
    model.accepts_loss_kwargs = True
    try:
        yield
    finally:
        del model.forward


@contextlib.contextmanager
def _dropped(model: PreTrainedModel, rate: float) -> Iterator[None]:
    """Dropout by hooks, since decoders of today have none of their own: the saved model stays a plain one."""
    drop = nn.Dropout(rate)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        return (drop(output[0]), *output[1:]) if isinstance(output, tuple) else drop(output)

    decoder = model.get_decoder()
    places = [
        model.get_input_embeddings(),
        *(block for layer in decoder.layers for block in (layer.self_attn, layer.mlp)),
    ]
    handles = [place.register_forward_hook(hook) for place in places] if rate else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _newest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for folder in [folder for folder in found if not (folder / _WHOLE).is_file()]:
        shutil.rmtree(folder)
    whole = [folder for folder in found if folder.is_dir()]
    return whole[-1] if whole else None


def _printer(trainer: Trainer) -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


class _Watch(TrainerCallback):
    """Writes log.jsonl, tells progress, marks whole checkpoints, stops on a loss that is not a number."""

    def __init__(self, work: Path, progress: Progress) -> None:
        self.log, self.progress = work / "log.jsonl", progress
        self.started = time.monotonic()
        self.before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop lines of steps that will be taken again."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.is_file() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        self.before = kept[-1]["seconds"] if kept else 0.0
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """One line for every log of the loop that has a loss."""
        if not logs or "loss" not in logs:
            return
        if not np.isfinite(logs["loss"]):
            raise ModelError(
                f"the loss is not a number at step {state.global_step}. "
                f"Lower train.N.learning_rate (now {args.learning_rate}); the last good checkpoint is kept."
            )
        seconds = self.before + time.monotonic() - self.started
        line = {
            "step": state.global_step,
            "epoch": round(state.epoch, 4),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line | {"seconds": round(seconds, 2)}) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell how far it is, and see that the last step is logged whatever its number."""
        control.should_log |= state.global_step >= state.max_steps
        self.progress(state.global_step / max(1, state.max_steps))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as whole."""
        write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE, "")
