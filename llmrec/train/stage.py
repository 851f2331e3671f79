"""A training stage: the model it starts from, its rows, the loop, and the plain model folder it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.files import atomic_folder
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt, old_rows_trained
from llmrec.model.merge import cost, is_quantized, merged
from llmrec.model.moved import Before, moved
from llmrec.model.vocabulary import MENTION, code_tokens, new_token_ids
from llmrec.recipe import Sft, Tasks
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.builder import max_history
from llmrec.tasks.examples import load, stream_batches
from llmrec.train import sft, together
from llmrec.train.coded import Coded
from llmrec.train.drop import Drop
from llmrec.train.encode import Encoded, encode, used
from llmrec.train.feed import TokenFile
from llmrec.train.job import TrainJob, shorten
from llmrec.train.memory import explain_memory
from llmrec.train.order import Order
from llmrec.train.packing import Change, PackedRows
from llmrec.train.siblings import Siblings
from llmrec.train.smooth import Smooth
from llmrec.train.spares import Spares
from llmrec.train.start import build_model
from llmrec.train.taught import Places, Taught, find
from llmrec.train.watch import Progress


@dataclass(frozen=True)
class _TrainState:
    """What training starts from: model, tokenizer, ids of the new tokens, their rows before training, packed rows.

    `trained` counts the parameters that training changes.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    new: np.ndarray
    before: Before
    rows: PackedRows
    trained: int


def make(job: TrainJob, target: Path, progress: Progress) -> dict[str, Any]:
    """Fine-tune on the examples, then write model/, adapter/ and log.jsonl into the stage's folder.

    Of several processes that train together all call this, and the first one writes. What survives a kill is in the
    job's work folder.

    Args:
        job: a stage of supervised fine-tuning.
        target: the stage's folder.
        progress: called with the share done, 0 to 1.

    Returns:
        Facts for made.json: sizes, trained parameters, how far the rows of new tokens moved; none but in the first
        process.

    Raises:
        ModelError: see `build_model`, `encode` and `sft.train`; or no row of a new token moved.
    """
    stage = job.stage
    assert isinstance(stage, Sft), f"{job.name} is no supervised fine-tuning"
    if together.is_first():
        job.claim_work()
    catalogue = Catalogue.load(job.catalogue)
    note = _note(job.tasks, catalogue, job.tasks_folder)
    with together.in_turn(), explain_memory(stage, job.name, job.adapt):
        state = _prepare(job, stage, catalogue)
    validate = job.validate
    around = sft.Around(
        job.name,
        job.adapt,
        (lambda model: validate(model, state.tokenizer, note)) if validate else None,
        partial(_described, state.rows, job.tasks_folder),
        job.logs,
        job.report_to,
    )
    dropout = job.model.dropout if job.model.base == "nano" else 0.0
    smooth = Smooth.of(catalogue, state.new, stage.smoothing) if stage.smoothing else None
    siblings = _siblings(job, catalogue, state) if stage.softmax == "catalogue" else None
    given = state.model, state.rows, stage, job.seed, job.work, dropout, progress, around
    done = sft.train(*given, smooth, siblings)
    return _finish(job, stage, catalogue, state, done, note, target) if together.is_first() else {}


def _prepare(job: TrainJob, stage: Sft, catalogue: Catalogue) -> _TrainState:
    model, tokenizer = build_model(job, catalogue)
    new = new_token_ids(tokenizer, catalogue.tokens)
    before = Before.of(model, new)
    model = adapt(model, job.model, job.adapt, new)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    window = model.config.get_text_config().max_position_embeddings
    spares = Spares.of(catalogue, new, stage.spare_share, job.seed, job.number)
    kept = job.work / "tokens"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            TokenFile.write(encode(stream_batches(job.tasks_folder), tokenizer, window, spares), folder)
    examples = TokenFile(kept)
    changes = _changes(job, stage, catalogue, examples, new)
    rows = PackedRows(examples, stage.row_tokens, stream(job.seed, "pack", job.number), changes)
    return _TrainState(model, tokenizer, new, before, rows, trained)


def _siblings(job: TrainJob, catalogue: Catalogue, state: _TrainState) -> Siblings:
    head, name = state.model.get_output_embeddings(), f"{job.name}.softmax"
    if head.weight is not state.model.get_input_embeddings().weight or getattr(head, "bias", None) is not None:
        # Untied, the row of an item that has no sibling would never move, and the run would stop for it.
        raise ModelError(
            f"{name}: catalogue needs a base whose output layer is its embedding, without a bias, and "
            f"{job.model.base}'s is not. Set it to vocabulary, or choose such a base (nano, SmolLM2-135M)."
        )
    return Siblings.of(catalogue, state.new, name)


def _changes(
    job: TrainJob, stage: Sft, catalogue: Catalogue, examples: Sequence[Encoded], new: np.ndarray
) -> list[Change]:
    """What the recipe changes in examples in every epoch; a teacher's expectations are kept in the work folder."""
    coded, changes = Coded.of(catalogue, new), list[Change]()
    if stage.taught:
        codes, kept = code_tokens(catalogue.codes, new), job.work / "taught"
        if not kept.is_dir():
            assert job.teacher is not None, f"{job.name} has no teacher"
            with atomic_folder(kept) as folder:
                teacher, again = job.teacher(), not job.exclude_seen
                find(examples, coded, codes, teacher, again, f"{job.name}.taught").write(folder)
        changes.append(Taught(stage.taught, Places.load(kept), codes, job.seed, job.number))
    if stage.drop_history:
        changes.append(Drop(stage.drop_history, coded, job.seed, job.number))
    return changes


def _finish(
    job: TrainJob,
    stage: Sft,
    catalogue: Catalogue,
    state: _TrainState,
    done: sft.Trained,
    note: model_folder.Note,
    target: Path,
) -> dict[str, Any]:
    """Write what was trained; facts about it."""
    model = state.model
    if done.weights is not None:  # what a strategy has cut up is put together in a model of this process alone
        model = adapt(build_model(job, catalogue)[0], job.model, job.adapt, state.new)
        model.load_state_dict(done.weights)
    plain = merged(model, state.tokenizer, target, lambda: build_model(job, catalogue)[0])
    model_folder.save(plain, state.tokenizer, note, target / "model")
    shutil.copy(job.work / "log.jsonl", target / "log.jsonl")
    examples = state.rows.examples
    return {
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "trained parameters": state.trained,
        "new rows": _moved(job, stage, catalogue, state, plain, done.facts),
        "examples": len(examples),
        "rows": len(state.rows),
        "tokens": state.rows.tokens,
        "supervised tokens": state.rows.supervised,
        **done.facts,
        **({"merge": _merge_cost(model, plain, examples)} if is_quantized(model) else {}),
    }


def _moved(
    job: TrainJob, stage: Sft, catalogue: Catalogue, state: _TrainState, plain: Any, facts: dict[str, Any]
) -> Any:
    """How far the rows of new tokens moved, and the check that those that were used did."""
    new = state.new
    seen = used(_seen(state.rows, stage.batch, job.seed, facts), new)
    unused = np.isin(np.arange(len(new)), catalogue.codes, invert=True)
    names = [*catalogue.tokens, MENTION][: len(new)]  # models of before the mention are trained further, too
    return moved(state.before, plain, new, names, seen, unused, old_rows_trained(job.model, job.adapt))


def _described(rows: PackedRows, tasks: Path, numbers: list[int]) -> str:
    """What stands in some packed rows: their numbers, users and tasks."""
    held = load(tasks).take([example for number in numbers for example in rows.rows[number]])
    users, tasks_of = (held[name].unique().to_pylist() for name in ("user_id", "task"))
    return f"rows {shorten(numbers)}; users {shorten(user for user in users if user)}; tasks {shorten(tasks_of)}"


def _seen(rows: PackedRows, batch: int, seed: int, facts: dict[str, Any]) -> Iterator[Encoded]:
    """Examples of all the steps that the model has taken: fewer than there are where training ended early.

    Of those from which items are left out, as the first epoch had them: what they show was seen in any case.
    """
    steps = facts.get("best step", facts["steps"])
    taken = islice(Order(len(rows), batch, seed % 2**32), steps * batch)
    return (rows.example(number, 0) for row in taken for number in rows.rows[row])


def _merge_cost(trained: Any, plain: Any, examples: Sequence[Encoded]) -> dict[str, float]:
    """What the merge of an adapter that was trained over a quantized base costs, on 32 examples from all of them."""
    sample = examples[:: max(1, len(examples) // 32)][:32]
    return cost(trained, plain, [(example.tokens, example.supervised) for example in sample])


def _note(settings: Tasks, catalogue: Catalogue, folder: Path) -> model_folder.Note:
    prompt, held_out = "", ""
    if settings.recommending:
        template = templates.load(settings.recommending).select(settings.templates)
        prompt, held_out = template.train[0].prompt, (template.held_out or template.train)[0].prompt
    held = max_history(settings, catalogue.codes.shape[1])
    return model_folder.Note(catalogue.hash, held, prompt, held_out, *_searches(settings, folder))


def _searches(settings: Tasks, folder: Path) -> tuple[str, str]:
    """Prompts for a wish in words that the model learns, without a history and with one; "" where it learns none."""
    if not any((folder / "examples").glob("item_search-*")):
        return "", ""
    known = [one.prompt for one in templates.load("item_search").select(settings.templates).train]
    after = ["history" in [slot for _, slot in templates.parts(prompt)] for prompt in known]
    alone, both = ([one for one, has in zip(known, after, strict=True) if has is wanted] for wanted in (False, True))
    return next(iter(alone), ""), next(iter(both), "")
