"""The loop of every training stage: transformers' own around a loss of ours, with checkpoints to go on from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from llmrec.model.folder import ModelMeta
from llmrec.model.logits import unwrap_peft
from llmrec.recipe import Training
from llmrec.train import distributed
from llmrec.train.callbacks import (
    Described,
    EarlyStopping,
    LogCallback,
    Measure,
    Progress,
    WeightAverage,
    newest_checkpoint,
)
from llmrec.train.job import TrainJob, explain_oom
from llmrec.train.log import chosen_trackers, trackers_in
from llmrec.train.packing import Filled, Order, Rows


@dataclass(frozen=True)
class TrainContext:
    """What surrounds a training and does not change it, but for an early end.

    Attributes:
        name: of the stage in the recipe, for messages.
        adapt: how much of the model is trained, for messages.
        measure: metrics of validation; needed where the stage validates.
        described: numbers of packed rows → what they hold, in words.
        logs: folder for trackers; None for no trackers.
        report_to: names of trackers; None for TensorBoard where it is installed.
    """

    name: str = "train.N"
    adapt: str = "full"
    measure: Measure | None = None
    described: Described = field(default=lambda rows: f"rows {', '.join(map(str, rows[:8]))}")
    logs: Path | None = None
    report_to: Sequence[str] | None = None

    @classmethod
    def of(cls, job: TrainJob, tokenizer: Any, meta: ModelMeta, described: Described) -> TrainContext:
        """Of a job, whose model is validated with a tokenizer and a meta."""
        validate = job.validate
        measure = (lambda model: validate(model, tokenizer, meta)) if validate else None
        return cls(job.name, job.adapt, measure, described, job.logs, job.report_to)


@dataclass(frozen=True)
class Objective:
    """How rows become a loss.

    Attributes:
        forward: takes the place of the model's forward pass while training; its output's `loss` is what is minimised.
        collate: rows of a pass → its tensors. Where they hold `labels`, `forward` gets as `num_items_in_batch` how many
            labels of a whole step (the first of a row apart) are not IGNORE.
        prepare: the model, the tensors of a pass and the numbers of step and pass → the tensors that `forward` gets.
        metrics: means since the last call, to log beside the loss.
        begin_epoch: called with the number of each epoch, from 0, before its rows are read.
        no_dropout: none anywhere, adapters' included: a ratio of probabilities would be of two different draws.
    """

    forward: Callable[..., CausalLMOutput]
    collate: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]
    prepare: Callable[[Any, dict[str, Tensor], int, int], dict[str, Tensor]] | None = None
    metrics: Callable[[], dict[str, float]] | None = None
    begin_epoch: Callable[[int], None] = lambda epoch: None
    no_dropout: bool = False


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        facts: for made.json: steps taken, the best validation.
        weights: by parameter name, where the strategy has cut the model up and this is the first process; None where
            the model itself holds them.
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
    """Train a model in place; goes on from the newest whole checkpoint in `work`.

    Under `accelerate launch` every process calls this with the same arguments and takes its share of each step.

    Args:
        model: trained in place; with early stopping it ends with the weights of the best step.
        rows: what a step takes a batch of.
        stage: the recipe's part.
        objective: how rows become a loss.
        seed: of order and dropout.
        work: folder for checkpoints and log.jsonl.
        dropout: probability of dropping outputs of attention and feed-forward blocks and embeddings.
        progress: told the share done, 0 to 1.
        context: validation, trackers and names.

    Raises:
        ModelError: the loss is not a number, memory does not suffice, a tracker is not installed, or the rows of a step
            do not divide over the processes.
    """
    context = context or TrainContext()
    work.mkdir(parents=True, exist_ok=True)
    start = newest_checkpoint(work)
    distributed.barrier()  # half-written checkpoints are gone before any process writes one
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
        arguments = _arguments(stage, seed, work, names)
        parts = distributed.world_size() * arguments.gradient_accumulation_steps
        order = Order(len(rows), parts * arguments.per_device_train_batch_size, arguments.data_seed or 0, parts)
        log = LogCallback(work, progress, order, context.name, context.described)
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
    if loop.is_fsdp_enabled or loop.is_deepspeed_enabled:  # all processes must ask for the whole weights
        weights = loop.accelerator.get_state_dict(loop.model_wrapped)
    return Trained(facts, weights if distributed.is_main_process() else None)


def _arguments(stage: Training, seed: int, work: Path, report_to: Sequence[str]) -> TrainingArguments:
    """Arguments of transformers' loop, from the recipe's part of a training stage."""
    try:
        share = stage.pass_rows(distributed.world_size())
    except ValueError as error:
        raise ModelError(f"train.N.{error}.") from None
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=share,
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
        average_tokens_across_devices=True,  # the loss is the mean over the tokens of a whole step, whoever holds them
        ddp_find_unused_parameters=False,
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide the loss that training stops on
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
    """The loop of transformers, with our order of rows and an eye on every loss."""

    def __init__(
        self,
        watch: LogCallback,
        objective: Objective,
        model: Any,
        arguments: TrainingArguments,
        rows: Filled,
        callbacks: Sequence[Any],
    ) -> None:
        self.watch = watch
        self.train_objective = objective
        self.taken = (-1, 0)
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
        watch.gather, watch.begin_epoch = self.accelerator.gather, objective.begin_epoch

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.watch.order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Not those of embedding rows that stay, or that only some examples use."""
        held = no_decay_names(self.model)
        return [name for name in super().get_decay_parameter_names(model) if name not in held]

    def get_batch_samples(self, *given: Any, **named: Any) -> Any:
        """No batch once the last step is done: gone on with from there, a part of an epoch would get a step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*given, **named)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *given: Any, **named: Any) -> Tensor:
        """One pass; its loss is looked at later, since looking waits for the device."""
        if self.train_objective.prepare:
            step = self.state.global_step
            self.taken = (step, self.taken[1] + 1 if self.taken[0] == step else 0)
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                inputs = self.train_objective.prepare(self.model, self._prepare_inputs(inputs), *self.taken)
        loss = super().training_step(model, inputs, *given, **named)
        self.watch.losses.append(loss)
        return loss

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        """Beside the loss, the metrics of this objective, as means over the processes that have any."""
        if self.train_objective.metrics and "loss" in logs:
            found = self.train_objective.metrics()
            names = distributed.broadcast(list(found))  # another process may have had no rows since the last line
            values = torch.tensor([found.get(name, torch.nan) for name in names], device=self.args.device)
            means = self.accelerator.gather(values).view(-1, len(names)).nanmean(0).tolist() if names else []
            logs |= {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
            self.watch.metrics |= set(names)
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
    """Dropout by hooks, since decoders of today have none of their own: the saved model stays a plain one."""
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
    """Dropout; on a CPU from uniform numbers, which torch draws faster than its masks."""
    if values.device.type != "cpu" or rate == 1:
        return nn.functional.dropout(values, rate)
    kept = (torch.rand(values.shape) >= rate).to(values.dtype)
    return values * kept.div_(1 - rate)


@contextlib.contextmanager
def _plain_attention(model: PreTrainedModel, most: int = 2**20) -> Iterator[None]:
    """On a CPU, small heads attend by plain products: torch's fused kernel is slower there.

    Args:
        model: that trains.
        most: attention weights of a row of the whole window, over all layers and heads, for which memory is no matter.
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
