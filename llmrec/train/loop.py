"""The training loop of all stages: the Trainer of transformers with our objective, order of rows and checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerState, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput
from transformers.trainer_callback import PrinterCallback

from llmrec.errors import ModelError
from llmrec.model.adapt import no_decay_names
from llmrec.model.logits import unwrap_peft
from llmrec.recipe import Training
from llmrec.train import distributed
from llmrec.train.callbacks import (
    EarlyStopping,
    LogCallback,
    Progress,
    WeightAverage,
    newest_checkpoint,
)
from llmrec.train.job import TrainContext, explain_oom
from llmrec.train.log import chosen_trackers, trackers_in
from llmrec.train.packing import Filled, Order, Rows


@dataclass(frozen=True)
class Objective:
    """Training objective: maps a batch to a scalar loss and named metrics.

    Attributes:
        forward: replaces the model's forward pass during training; the `loss` of its output is minimised.
        collate: rows of a pass → tensors. If these have `labels`, `forward` gets `num_items_in_batch`, the number of
            labels of the whole step (without the first of each row) that are not IGNORE.
        prepare: (model, tensors of a pass, number of the step, number of the pass) → the tensors that `forward` gets.
        metrics: means since the last call, logged besides the loss.
        begin_epoch: called with the number of each epoch, from 0, before its rows are read.
        no_dropout: no dropout, not even in adapters, as for ratios of two models' probabilities.
    """

    forward: Callable[..., CausalLMOutput]
    collate: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]
    prepare: Callable[[Any, dict[str, Tensor], int, int], dict[str, Tensor]] | None = None
    metrics: Callable[[], dict[str, float]] | None = None
    begin_epoch: Callable[[int], None] = lambda epoch: None
    no_dropout: bool = False


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        facts: for made.json: steps taken, the best validation.
        weights: by parameter name, in the main process if the strategy has sharded the model; None otherwise.
    """

    facts: dict[str, Any]
    weights: dict[str, Tensor] | None


def train(
    model: PreTrainedModel,
    rows: Rows,
    stage: Training,
    objective: Objective,
    seed: int,
    work: Path,
    dropout: float,
    progress: Progress,
    context: TrainContext | None = None,
) -> Trained:
    """Train a model in place, from the newest complete checkpoint in `work` if there is one.

    Under `accelerate launch` every process calls this with the same arguments and takes its share of each step.

    Args:
        model: with early stopping it ends with the weights of the best step.
        rows: training data; a step takes `stage.batch` of them.
        stage: settings.
        seed: of order and dropout.
        work: folder for checkpoints and log.jsonl.
        dropout: of the outputs of embeddings, attention and feed-forward blocks.
        progress: called with the share done, 0 to 1.

    Raises:
        ModelError: the loss is not finite, memory does not suffice, a tracker is not installed, or the rows of a step
            do not divide over the processes.
    """
    context = context or TrainContext()
    work.mkdir(parents=True, exist_ok=True)
    start = newest_checkpoint(work)
    distributed.barrier()  # incomplete checkpoints are deleted before any process writes one
    early = None
    if stage.validation.every and context.measure:
        early = EarlyStopping(stage.validation, context.measure, work, stage.method != "sft")
    average = WeightAverage(stage.weight_average, work) if stage.weight_average else None
    names = chosen_trackers(context.report_to) if context.logs else []
    tracked = trackers_in(context.logs) if context.logs and names else contextlib.nullcontext()
    with (
        explain_oom(stage, context.name, context.adapt),
        _own_loss(model, objective.forward),
        _dropped(model, dropout),
        _plain_attention(unwrap_peft(model)),
        tracked,
    ):
        arguments = _arguments(stage, context.name, seed, work, names)
        parts = distributed.world_size() * arguments.gradient_accumulation_steps
        order = Order(len(rows), parts * arguments.per_device_train_batch_size, arguments.data_seed or 0, parts)
        advice = context.advice or (
            f"Lower {context.name}.learning_rate (now {stage.learning_rate}) or raise {context.name}.warmup (now "
            f"{stage.warmup})"
        )
        log = LogCallback(work, progress, order, context.describe, advice)
        loop = _Loop(log, objective, model, arguments, Filled(rows), [average, log, early])
        if early:
            early.log = loop.log
        history = TrainerState.load_from_json(str(start / "trainer_state.json")).log_history if start else []
        if not (early and early.over(history)):
            loop.train(resume_from_checkpoint=None if start is None else str(start))
            history = loop.state.log_history
    facts: dict[str, Any] = {"steps": int(history[-1]["step"]) if history else 0, "processes": distributed.world_size()}
    if early:
        early.restore(model, history)
        step, metric = early.best(history)
        facts |= {"best step": step, early.key.replace("_", " "): round(metric, 5)}
    if average:
        average.restore(model)
        facts["steps averaged"] = average.steps
    weights = None
    if loop.is_fsdp_enabled or loop.is_deepspeed_enabled:  # a collective call
        weights = loop.accelerator.get_state_dict(loop.model_wrapped)
    return Trained(facts, weights if distributed.is_main_process() else None)


def _arguments(stage: Training, name: str, seed: int, work: Path, report_to: Sequence[str]) -> TrainingArguments:
    try:
        rows = stage.pass_rows(distributed.world_size())
    except ValueError as error:
        raise ModelError(f"{name}.{error}.") from None
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=stage.gradient_accumulation,
        gradient_checkpointing=stage.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup,
        bf16=stage.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        average_tokens_across_devices=True,  # the loss is a mean over the tokens of a whole step
        ddp_find_unused_parameters=False,
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide the loss that `LogCallback` checks
        save_steps=stage.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        report_to=list(report_to),
        project="llmrec",
        run_name=f"{work.parent.parent.name} {work.name}",
        disable_tqdm=True,
    )


class _Loop(Trainer):
    """The Trainer of transformers with our objective, order of rows and log."""

    def __init__(
        self,
        log_callback: LogCallback,
        objective: Objective,
        model: Any,
        arguments: TrainingArguments,
        rows: Filled,
        callbacks: Sequence[Any],
    ) -> None:
        self.log_callback = log_callback
        self.train_objective = objective
        self.pass_number = (-1, 0)  # of the step, and of the pass in it
        if objective.no_dropout:
            _disable_dropout(model)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=objective.collate,
            callbacks=[callback for callback in callbacks if callback],
        )
        self.remove_callback(PrinterCallback)
        log_callback.gather = self.accelerator.gather
        log_callback.begin_epoch = objective.begin_epoch

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.log_callback.order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Leave out embeddings whose rows are frozen or used by some examples only."""
        held = no_decay_names(self.model)
        return [name for name in super().get_decay_parameter_names(model) if name not in held]

    def get_batch_samples(self, *given: Any, **named: Any) -> Any:
        """Return no batch after the last step: a resume from there would take one more step of a partial epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*given, **named)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *given: Any, **named: Any) -> Tensor:
        """One pass; its loss is checked later, since reading it waits for the device."""
        if self.train_objective.prepare:
            step = self.state.global_step
            self.pass_number = (step, self.pass_number[1] + 1 if self.pass_number[0] == step else 0)
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                inputs = self.train_objective.prepare(self.model, self._prepare_inputs(inputs), *self.pass_number)
        loss = super().training_step(model, inputs, *given, **named)
        self.log_callback.losses.append(loss)
        return loss

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        """Add the metrics of the objective, as means over the processes that have any."""
        if self.train_objective.metrics and "loss" in logs:
            metrics = self.train_objective.metrics()
            names = distributed.broadcast(list(metrics))  # another process may have had no rows since the last line
            values = torch.tensor([metrics.get(name, torch.nan) for name in names], device=self.args.device)
            means = self.accelerator.gather(values).view(-1, len(names)).nanmean(0).tolist() if names else []
            logs |= {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
            self.log_callback.metrics |= set(names)
        super().log(logs, *given, **named)


@contextlib.contextmanager
def _own_loss(model: Any, forward: Callable[..., CausalLMOutput]) -> Iterator[None]:
    model.forward = partial(forward, model)
    model.accepts_loss_kwargs = True
    try:
        yield
    finally:
        del model.forward


def _disable_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@contextlib.contextmanager
def _dropped(model: PreTrainedModel, rate: float) -> Iterator[None]:
    """Add dropout by hooks, since current decoders have none, so the saved model needs no code of ours."""
    if not rate:
        yield
        return

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        return (_drop(output[0], rate), *output[1:]) if isinstance(output, tuple) else _drop(output, rate)

    blocks = (block for layer in model.get_decoder().layers for block in (layer.self_attn, layer.mlp))
    handles = [module.register_forward_hook(hook) for module in (model.get_input_embeddings(), *blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _drop(values: Tensor, rate: float) -> Tensor:
    """Apply dropout; on a CPU with uniform numbers, which torch draws faster than Bernoulli masks."""
    if values.device.type != "cpu" or rate == 1:
        return nn.functional.dropout(values, rate)
    kept = (torch.rand(values.shape) >= rate).to(values.dtype)
    return values * kept.div_(1 - rate)


@contextlib.contextmanager
def _plain_attention(model: PreTrainedModel, most: int = 2**20) -> Iterator[None]:
    """On a CPU, use eager attention for small models: torch's fused kernel is slower there.

    Args:
        most: attention weights of one row of the whole window, over all layers and heads, up to which to do so.
    """
    config = model.config.get_text_config()
    weights = config.num_hidden_layers * config.num_attention_heads * config.max_position_embeddings**2
    if model.device.type != "cpu" or config._attn_implementation != "sdpa" or weights > most:
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")
