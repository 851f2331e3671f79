"""Supervised fine-tuning (SFT): a training stage from its examples to a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.files import atomic_folder
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt, trains_base_rows
from llmrec.model.embeddings import Snapshot, check_embeddings
from llmrec.model.merge import is_quantized, merge_adapters, merge_error
from llmrec.model.vocabulary import MENTION, code_tokens, new_token_ids
from llmrec.recipe import Sft, Tasks
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.builder import max_history
from llmrec.tasks.examples import load, stream_batches
from llmrec.train import distributed, loop
from llmrec.train.augment import (
    Candidates,
    CodeSpans,
    HistoryDropout,
    ReservedTokens,
    TeacherReplacement,
    find_candidates,
)
from llmrec.train.callbacks import Progress
from llmrec.train.encode import TokenFile, encode, used
from llmrec.train.initial_model import build_model
from llmrec.train.job import TrainJob, explain_oom, shorten
from llmrec.train.loop import TrainContext, Trained
from llmrec.train.loss import LabelSmoothing, supervised_loss
from llmrec.train.packing import Augment, Order, PackedRows, collate
from llmrec.train.trie_softmax import TrieSoftmax


@dataclass(frozen=True)
class _TrainState:
    model: Any
    tokenizer: PreTrainedTokenizerBase
    new: np.ndarray  # ids of the new tokens
    before: Snapshot  # their embeddings before training
    rows: PackedRows
    trained: int  # number of trained parameters


def make(job: TrainJob, target: Path, progress: Progress) -> dict[str, Any]:
    """Fine-tune on the examples, then write model/, adapter/ and log.jsonl into the stage's folder.

    All processes of a distributed training call this; the main process writes. Checkpoints are in the job's work
    folder.

    Args:
        job: a stage of supervised fine-tuning.
        target: the stage's folder.
        progress: called with the share done, 0 to 1.

    Returns:
        Facts for made.json: sizes, trained parameters, changes of the new embeddings; empty except in the main process.

    Raises:
        ModelError: see `build_model`, `encode` and `loop.train`; or a row of a new token did not move.
    """
    stage = job.stage
    assert isinstance(stage, Sft), f"{job.name} is not SFT"
    if distributed.is_main_process():
        job.reset_workdir()
    catalogue = Catalogue.load(job.catalogue)
    meta = _meta(job.tasks, catalogue, job.tasks_folder)
    with distributed.main_process_first(), explain_oom(stage, job.name, job.adapt):
        state = _prepare(job, stage, catalogue)
    context = TrainContext.of(job, state.tokenizer, meta, partial(_describe, state.rows, job.tasks_folder))
    dropout = job.model.dropout if job.model.base == "nano" else 0.0
    smoothing = LabelSmoothing.of(catalogue, state.new, stage.label_smoothing) if stage.label_smoothing else None
    trie = _trie_softmax(job, catalogue, state) if stage.loss == "trie" else None
    result = train(state.model, state.rows, stage, job.seed, job.work, dropout, progress, context, smoothing, trie)
    return _finish(job, stage, catalogue, state, result, meta, target) if distributed.is_main_process() else {}


def train(
    model: PreTrainedModel,
    rows: PackedRows,
    stage: Sft,
    seed: int,
    work: Path,
    dropout: float,
    progress: Progress,
    context: TrainContext | None = None,
    smoothing: LabelSmoothing | None = None,
    trie: TrieSoftmax | None = None,
) -> Trained:
    """Train a model in place on packed examples; arguments are those of `loop.train` and `supervised_loss`."""
    forward = partial(supervised_loss, smoothing=smoothing, trie=trie)
    objective = loop.Objective(forward, collate, begin_epoch=rows.set_epoch)
    return loop.train(model, rows, stage, objective, seed, work, dropout, progress, context)


def _prepare(job: TrainJob, stage: Sft, catalogue: Catalogue) -> _TrainState:
    model, tokenizer = build_model(job, catalogue)
    new = new_token_ids(tokenizer, catalogue.tokens)
    before = Snapshot.of(model, new)
    model = adapt(model, job.model, job.adapt, new)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    window = model.config.get_text_config().max_position_embeddings
    reserved = ReservedTokens.of(catalogue, new, stage.reserved_token_prob, job.seed, job.number)
    kept = job.work / "tokens"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            TokenFile.write(encode(stream_batches(job.tasks_folder), tokenizer, window, reserved), folder)
    examples = TokenFile(kept)
    augmentations = _augmentations(job, stage, catalogue, examples, new)
    rows = PackedRows(examples, stage.pack_length, stream(job.seed, "pack", job.number), augmentations)
    return _TrainState(model, tokenizer, new, before, rows, trained)


def _trie_softmax(job: TrainJob, catalogue: Catalogue, state: _TrainState) -> TrieSoftmax:
    head, name = state.model.get_output_embeddings(), f"{job.name}.loss"
    if head.weight is not state.model.get_input_embeddings().weight or getattr(head, "bias", None) is not None:
        # Untied, the row of an only child would never change, which `check_embeddings` reports as an error.
        raise ModelError(
            f"{name}: trie needs a base whose output layer is its embedding, without a bias, and "
            f"{job.model.base}'s is not. Set it to full, or choose such a base (nano, SmolLM2-135M)."
        )
    return TrieSoftmax.of(catalogue, state.new, name)


def _augmentations(
    job: TrainJob, stage: Sft, catalogue: Catalogue, examples: TokenFile, new: np.ndarray
) -> list[Augment]:
    """Augmentations that differ between epochs; the teacher's predictions are kept in the work folder."""
    spans, augmentations = CodeSpans.of(catalogue, new), list[Augment]()
    if prob := stage.teacher_replace_prob:
        codes, kept = code_tokens(catalogue.codes, new), job.work / "candidates"
        if not kept.is_dir():
            assert job.teacher is not None, f"{job.name} has no teacher"
            teacher, repeat, name = job.teacher(), not job.exclude_seen, f"{job.name}.teacher_replace_prob"
            with atomic_folder(kept) as folder:
                find_candidates(examples, spans, codes, teacher, repeat, name).write(folder)
        augmentations.append(TeacherReplacement(prob, Candidates.load(kept), codes, job.seed, job.number))
    if stage.item_dropout:
        augmentations.append(HistoryDropout(stage.item_dropout, spans, job.seed, job.number))
    return augmentations


def _finish(
    job: TrainJob,
    stage: Sft,
    catalogue: Catalogue,
    state: _TrainState,
    result: Trained,
    meta: model_folder.ModelMeta,
    target: Path,
) -> dict[str, Any]:
    """Write what was trained, and return facts about it."""
    model, rows = state.model, state.rows
    if result.weights is not None:  # the weights of a sharded model
        model = adapt(build_model(job, catalogue)[0], job.model, job.adapt, state.new)
        model.load_state_dict(result.weights)
    plain = merge_adapters(model, state.tokenizer, target, lambda: build_model(job, catalogue)[0])
    model_folder.save(plain, state.tokenizer, meta, target / "model")
    shutil.copy(job.work / "log.jsonl", target / "log.jsonl")
    facts = {
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "trained parameters": state.trained,
        "new rows": _moved(job, stage, catalogue, state, plain, result.facts),
        "examples": len(rows.examples),
        "rows": len(rows),
        "tokens": rows.tokens,
        "supervised tokens": rows.supervised,
        **result.facts,
    }
    if is_quantized(model):  # the error of merging, on 32 examples
        sample = [rows.examples[i] for i in range(0, len(rows.examples), max(1, len(rows.examples) // 32))][:32]
        facts["merge"] = merge_error(model, plain, [(example.tokens, example.supervised) for example in sample])
    return facts


def _moved(
    job: TrainJob, stage: Sft, catalogue: Catalogue, state: _TrainState, plain: Any, facts: dict[str, Any]
) -> Any:
    """Changes of the new embeddings, with a check that those that were used have changed."""
    new, rows = state.new, state.rows
    steps = facts.get("best step", facts["steps"])  # early stopping takes fewer than all
    taken = islice(Order(len(rows), stage.batch, job.seed % 2**32), steps * stage.batch)
    # With the augmentations of the first epoch: what item dropout left was seen.
    seen = used((rows.example(number, 0) for row in taken for number in rows.rows[row]), new)
    unused = np.isin(np.arange(len(new)), catalogue.codes, invert=True)
    names = [*catalogue.tokens, MENTION][: len(new)]  # an older model may lack MENTION
    return check_embeddings(state.before, plain, new, names, seen, unused, trains_base_rows(job.model, job.adapt))


def _describe(rows: PackedRows, tasks: Path, numbers: Sequence[int]) -> str:
    """Numbers, users and tasks of packed rows, for messages."""
    table = load(tasks).take([example for number in numbers for example in rows.rows[number]])
    users, tasks_of = (table[name].unique().to_pylist() for name in ("user_id", "task"))
    return f"rows {shorten(numbers)}; users {shorten(user for user in users if user)}; tasks {shorten(tasks_of)}"


def _meta(settings: Tasks, catalogue: Catalogue, folder: Path) -> model_folder.ModelMeta:
    prompt, held_out = "", ""
    if settings.recommending:
        template = templates.load(settings.recommending).select(settings.templates)
        prompt, held_out = template.train[0].prompt, (template.held_out or template.train)[0].prompt
    held = max_history(settings, catalogue.codes.shape[1])
    return model_folder.ModelMeta(catalogue.hash, held, prompt, held_out, *_search_prompts(settings, folder))


def _search_prompts(settings: Tasks, folder: Path) -> tuple[str, str]:
    """The trained prompts of item search without and with a history; "" if there is none."""
    if not any((folder / "examples").glob("item_search-*")):
        return "", ""
    prompts = {True: "", False: ""}  # whether with a history → the first such prompt
    for template in reversed(templates.load("item_search").select(settings.templates).train):
        prompts["history" in [slot for _, slot in templates.parts(template.prompt)]] = template.prompt
    return prompts[False], prompts[True]
