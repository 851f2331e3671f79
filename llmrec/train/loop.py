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

from llmrec.model.held import undecayed
from llmrec.model.logits import plain
from llmrec.recipe import Training
from llmrec.train import together, trackers
from llmrec.train.arguments import arguments
from llmrec.train.average import Averaged
from llmrec.train.early import Early, Measure
from llmrec.train.memory import explain_memory
from llmrec.train.order import Filled, Order, Rows
from llmrec.train.watch import Described, Progress, Watch, newest_checkpoint


@dataclass(frozen=True)
class Around:
    """What surrounds a training and does not change it, but for an early end.

    Attributes:
        name: of the stage in the recipe, for messages.
        adapt: how much of the model is trained, for messages.
        measure: the figure of validation; needed where the stage validates.
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


@dataclass(frozen=True)
class Way:
    """How rows become a loss.

    Attributes:
        forward: takes the place of the model's forward pass while training; its output's `loss` is what is minimised.
        collate: rows of a pass → its tensors. Where they hold `labels`, `forward` is told how many of a whole step's
            are not IGNORE (the first of a row apart), as `num_items_in_batch`.
        prepare: the model, the tensors of a pass and the numbers of step and pass → the tensors that `forward` gets.
        figures: since they were last asked for, what to tell beside the loss.
        begin: told the number of each epoch, from 0, before its rows are asked for.
        quiet: no dropout anywhere, adapters' included: a ratio of probabilities would be of two different draws.
    """

    forward: Callable[..., CausalLMOutput]
    collate: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]
    prepare: Callable[[Any, dict[str, Tensor], int, int], dict[str, Tensor]] | None = None
    figures: Callable[[], dict[str, float]] | None = None
    begin: Callable[[int], None] = lambda epoch: None
    quiet: bool = False


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
    way: Way,
    seed: int,
    work: Path,
    dropout: float,
    progress: Progress,
    around: Around | None = None,
) -> Trained:
    """Train a model in place; goes on from the newest whole checkpoint in `work`.

    Under `accelerate launch` every process calls this with the same arguments and takes its share of each step.

    Args:
        model: trained in place; with early stopping it ends with the weights of the best step.
        rows: what a step takes a batch of.
        stage: the recipe's part.
        way: how rows become a loss.
        seed: of order and dropout.
        work: folder for checkpoints and log.jsonl.
        dropout: probability of dropping outputs of attention and feed-forward blocks and embeddings.
        progress: told the share done, 0 to 1.
        around: validation, trackers and names.

    Raises:
        ModelError: the loss is not a number, memory does not suffice, a tracker is not installed, or the rows of a step
            do not divide over the processes.
    """
    around = around or Around()
    work.mkdir(parents=True, exist_ok=True)
    start = newest_checkpoint(work)
    together.wait()  # half-written checkpoints are gone before anybody writes one
    early = None
    if stage.validation.every and around.measure:
        early = Early(stage.validation, around.measure, work, stage.method != "sft")
    averaged = Averaged(stage.average, work) if stage.average else None
    names = trackers.chosen(around.report_to) if around.logs else []
    tracked = trackers.kept_in(around.logs) if around.logs and names else contextlib.nullcontext()
    with (
        explain_memory(stage, around.name, around.adapt),
        _own_loss(model, way.forward),
        _dropped(model, dropout),
        _plain_attention(plain(model)),
        tracked,
    ):
        loop = _loop(model, rows, way, arguments(stage, seed, work, names), progress, around, averaged, early)
        history = TrainerState.load_from_json(str(start / "trainer_state.json")).log_history if start else []
        if not (early and early.over(history)):
            loop.train(resume_from_checkpoint=None if start is None else str(start))
            history = loop.state.log_history
    if early:
        early.restore(model, history)
    if averaged:
        averaged.restore(model)
    facts = _facts(history, early) | ({"steps averaged": averaged.steps} if averaged else {})
    return Trained(facts, _gathered(loop))


def _loop(
    model: Any,
    rows: Rows,
    way: Way,
    given: TrainingArguments,
    progress: Progress,
    around: Around,
    averaged: Averaged | None,
    early: Early | None,
) -> _Loop:
    parts = together.world() * given.gradient_accumulation_steps
    order = Order(len(rows), parts * given.per_device_train_batch_size, given.data_seed or 0, parts)
    watch = Watch(Path(str(given.output_dir)), progress, order, around.name, around.described)
    watch.begin = way.begin
    if way.quiet:
        _silence(model)
    loop = _Loop(
        watch,
        way,
        model=model,
        args=given,
        train_dataset=Filled(rows),
        data_collator=way.collate,
        callbacks=[*([averaged] if averaged else []), watch, *([early] if early else [])],
    )
    loop.remove_callback(PrinterCallback)
    if early:
        early.tell = loop.log
    return loop


class _Loop(Trainer):
    """The loop of transformers, with our order of rows and an eye on every loss."""

    def __init__(self, watch: Watch, way: Way, **given: Any) -> None:
        self.watch, self.way, self.taken = watch, way, (-1, 0)
        super().__init__(**given)
        watch.gather = self.accelerator.gather

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.watch.order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Not those of embedding rows that stay, or that only some examples use."""
        held = undecayed(self.model)
        return [name for name in super().get_decay_parameter_names(model) if name not in held]

    def get_batch_samples(self, *given: Any, **named: Any) -> Any:
        """No batch once the last step is done: gone on with from there, a part of an epoch would get a step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*given, **named)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *given: Any, **named: Any) -> Tensor:
        """One pass; its loss is looked at later, since looking waits for the device."""
        if self.way.prepare:
            step = self.state.global_step
            self.taken = (step, self.taken[1] + 1 if self.taken[0] == step else 0)
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                inputs = self.way.prepare(self.model, self._prepare_inputs(inputs), *self.taken)
        loss = super().training_step(model, inputs, *given, **named)
        self.watch.losses.append(loss)
        return loss

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        """Beside the loss, the figures of this way to train, as means over the processes that have any."""
        if self.way.figures and "loss" in logs:
            found = self.way.figures()
            names = together.same(list(found))  # another process may have had no rows since the last line
            values = torch.tensor([found.get(name, torch.nan) for name in names], device=self.args.device)
            means = self.accelerator.gather(values).view(-1, len(names)).nanmean(0).tolist() if names else []
            logs |= {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
            self.watch.told |= set(names)
        super().log(logs, *given, **named)


def _silence(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@contextlib.contextmanager
def _own_loss(model: Any, forward: Callable[..., CausalLMOutput]) -> Iterator[None]:
    model.forward = partial(forward, model)
    model.accepts_loss_kwargs = True
    try:
        yield
    finally:
        del model.forward


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

    decoder = model.get_decoder()
    places = [
        model.get_input_embeddings(),
        *(block for layer in decoder.layers for block in (layer.self_attn, layer.mlp)),
    ]
    handles = [place.register_forward_hook(hook) for place in places]
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


def _facts(history: list[dict[str, float]], early: Early | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"steps": int(history[-1]["step"]) if history else 0, "processes": together.world()}
    if early:
        step, figure = early.best(history)
        facts |= {"best step": step, early.key.replace("_", " "): round(figure, 5)}
    return facts


def _gathered(loop: _Loop) -> dict[str, Tensor] | None:
    """The whole weights where FSDP or DeepSpeed hold the model; all processes must ask."""
    if not (loop.is_fsdp_enabled or loop.is_deepspeed_enabled):
        return None
    weights = loop.accelerator.get_state_dict(loop.model_wrapped)
    return weights if together.is_first() else None
