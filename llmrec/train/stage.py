"""A training stage: the model it starts from, its rows, the loop, and the plain model folder it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.collaborative import fit_one
from llmrec.contracts import Items
from llmrec.data.dataset import Dataset
from llmrec.errors import ModelError
from llmrec.files import atomic_folder, write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt, old_rows_trained
from llmrec.model.merge import cost, is_quantized, merged
from llmrec.model.moved import Before, moved
from llmrec.model.vocabulary import MENTION, code_tokens, new_token_ids
from llmrec.recipe import Adapt, Recipe, Sft
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.examples import load, stream_batches
from llmrec.tasks.maker import items_held
from llmrec.train import sft, together
from llmrec.train.coded import Coded
from llmrec.train.drop import Drop
from llmrec.train.encode import Encoded, encode, used
from llmrec.train.feed import TokenFile
from llmrec.train.memory import explain_memory
from llmrec.train.order import Order
from llmrec.train.packing import Change, PackedRows
from llmrec.train.siblings import Siblings
from llmrec.train.smooth import Smooth
from llmrec.train.spares import Spares
from llmrec.train.start import start
from llmrec.train.taught import Places, Taught, find
from llmrec.train.watch import Progress

Validate = Callable[[Any, PreTrainedTokenizerBase, model_folder.Note], dict[str, float]]
"""A model as it stands, its tokenizer and note → figures of validation."""


@dataclass(frozen=True)
class Job:
    """One training stage of a run.

    Attributes:
        recipe: of the run.
        number: of the training stage, from 1.
        catalogue: for the item tokens.
        tasks: folder of the stage `tasks`, with the examples.
        key: hash of all that the result depends on; a work folder of another key is thrown away.
        work: where tokens and checkpoints are, which survives a kill.
        run: the run folder.
        previous: the model folder to go on from, if any; the recipe's base otherwise.
        logs: folder for trackers; None for none.
    """

    recipe: Recipe
    number: int
    catalogue: Catalogue
    tasks: Path
    key: str
    work: Path
    run: Path
    previous: Path | None = None
    logs: Path | None = None

    @property
    def part(self) -> Sft:
        """The recipe's part."""
        part = self.recipe.train[self.number - 1]
        assert isinstance(part, Sft), f"{self.name} is none of supervised fine-tuning"
        return part

    @property
    def name(self) -> str:
        """Where that stands in the recipe."""
        return f"train.{self.number - 1}"

    @property
    def method(self) -> Adapt:
        """How much of the model is trained."""
        return self.part.adapt or self.recipe.model.adapt

    def start(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The plain model before training, the same whenever it is called, and its tokenizer."""
        return start(self.recipe, self.tasks, self.catalogue, self.work, self.run, self.previous)

    def adapted(self, model: PreTrainedModel, new: np.ndarray) -> Any:
        """A plain model with what is trained of it chosen."""
        return adapt(model, self.recipe.model, self.method, new)


@dataclass(frozen=True)
class _Begun:
    """What training starts from: the model, its tokenizer, ids of the new tokens, their rows as they were, packed rows.

    `trained` counts the parameters that training changes.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    new: np.ndarray
    before: Before
    rows: PackedRows
    trained: int


def make(job: Job, target: Path, progress: Progress, validate: Validate | None = None) -> dict[str, Any]:
    """Train in a work folder that survives a kill, then write model/, adapter/ and log.jsonl into the stage's folder.

    Of several processes that train together all call this, and the first one writes.

    Args:
        job: which stage of which run.
        target: the stage's folder.
        progress: told the share done.
        validate: the figure for early stopping, where the recipe asks for it.

    Returns:
        Facts for made.json: sizes, trained parameters, how far the rows of new tokens moved; none but in the first
        process.

    Raises:
        ModelError: see `start`, `encode` and `sft.train`; or no row of a new token moved.
    """
    if together.is_first():
        claim(job.work, job.key)
    note = _note(job.recipe, job.catalogue, job.tasks)
    with together.in_turn(), explain_memory(job.part, job.name, job.method):
        begun = _begin(job)
    around = sft.Around(
        job.name,
        job.method,
        (lambda model: validate(model, begun.tokenizer, note)) if validate else None,
        partial(_described, begun.rows, job.tasks),
        job.logs,
        job.recipe.launch.report_to,
    )
    dropout = job.recipe.model.dropout if job.recipe.model.base == "nano" else 0.0
    smooth = Smooth.of(job.catalogue, begun.new, job.part.smoothing) if job.part.smoothing else None
    siblings = _siblings(job, begun) if job.part.softmax == "catalogue" else None
    given = begun.model, begun.rows, job.part, job.recipe.seed, job.work, dropout, progress, around
    done = sft.train(*given, smooth, siblings)
    return _ended(job, begun, done, note, target) if together.is_first() else {}


def _begin(job: Job) -> _Begun:
    model, tokenizer = job.start()
    new = new_token_ids(tokenizer, job.catalogue.tokens)
    before = Before.of(model, new)
    model = job.adapted(model, new)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    window = model.config.get_text_config().max_position_embeddings
    spares = Spares.of(job.catalogue, new, job.part.spare_share, job.recipe.seed, job.number)
    kept = job.work / "tokens"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            TokenFile.write(encode(stream_batches(job.tasks), tokenizer, window, spares), folder)
    examples = TokenFile(kept)
    changes = _changes(job, examples, new)
    rows = PackedRows(examples, job.part.row_tokens, stream(job.recipe.seed, "pack", job.number), changes)
    return _Begun(model, tokenizer, new, before, rows, trained)


def _siblings(job: Job, begun: _Begun) -> Siblings:
    head, name = begun.model.get_output_embeddings(), f"{job.name}.softmax"
    if head.weight is not begun.model.get_input_embeddings().weight or getattr(head, "bias", None) is not None:
        # Untied, the row of an item that has no sibling would never move, and the run would stop for it.
        raise ModelError(
            f"{name}: catalogue needs a base whose output layer is its embedding, without a bias, and "
            f"{job.recipe.model.base}'s is not. Set it to vocabulary, or choose such a base (nano, SmolLM2-135M)."
        )
    return Siblings.of(job.catalogue, begun.new, name)


def _changes(job: Job, examples: Sequence[Encoded], new: np.ndarray) -> list[Change]:
    """What the recipe makes of examples in every epoch; what a teacher expects is written into the work folder once."""
    part, coded, changes = job.part, Coded.of(job.catalogue, new), list[Change]()
    if part.taught:
        codes, kept = code_tokens(job.catalogue.codes, new), job.work / "taught"
        if not kept.is_dir():
            dataset = Dataset.load(job.run / "data")
            teacher = fit_one(part.teacher, dataset.before("valid"), Items(dataset.item_ids))
            again = not job.recipe.evaluate.exclude_seen
            with atomic_folder(kept) as folder:
                find(examples, coded, codes, teacher, again, f"{job.name}.taught").write(folder)
        changes.append(Taught(part.taught, Places.load(kept), codes, job.recipe.seed, job.number))
    if part.drop_history:
        changes.append(Drop(part.drop_history, coded, job.recipe.seed, job.number))
    return changes


def _ended(job: Job, begun: _Begun, done: sft.Trained, note: model_folder.Note, target: Path) -> dict[str, Any]:
    """Write what was trained, and say what it is."""
    model = begun.model
    if done.weights is not None:  # what a strategy has cut up is put together in a model of this process alone
        model = job.adapted(job.start()[0], begun.new)
        model.load_state_dict(done.weights)
    plain = merged(model, begun.tokenizer, target, lambda: job.start()[0])
    model_folder.save(plain, begun.tokenizer, note, target / "model")
    shutil.copy(job.work / "log.jsonl", target / "log.jsonl")
    examples = begun.rows.examples
    return {
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "trained parameters": begun.trained,
        "new rows": _moved(job, begun, plain, done.facts),
        "examples": len(examples),
        "rows": len(begun.rows),
        "tokens": begun.rows.tokens,
        "supervised tokens": begun.rows.supervised,
        **done.facts,
        **({"merge": _merge_cost(model, plain, examples)} if is_quantized(model) else {}),
    }


def _moved(job: Job, begun: _Begun, plain: Any, facts: dict[str, Any]) -> Any:
    """How far the rows of new tokens moved, and the check that those that were used did."""
    catalogue, new = job.catalogue, begun.new
    seen = used(_seen(begun.rows, job.part.batch, job.recipe.seed, facts), new)
    unused = np.isin(np.arange(len(new)), catalogue.codes, invert=True)
    names = [*catalogue.tokens, MENTION][: len(new)]  # models of before the mention are trained further, too
    return moved(begun.before, plain, new, names, seen, unused, old_rows_trained(job.recipe.model, job.method))


def claim(work: Path, key: str) -> None:
    """Throw away what another recipe, or other inputs, left in the work folder: its checkpoints fit nothing here."""
    if not (work / "key").is_file() or (work / "key").read_text() != key:
        shutil.rmtree(work, ignore_errors=True)
        write_text(work / "key", key)


def _described(rows: PackedRows, tasks: Path, numbers: list[int]) -> str:
    """What stands in some packed rows: their numbers, users and tasks."""
    held = load(tasks).take([example for number in numbers for example in rows.rows[number]])
    users, tasks_of = (held[name].unique().to_pylist() for name in ("user_id", "task"))
    return f"rows {few(numbers)}; users {few(user for user in users if user)}; tasks {few(tasks_of)}"


def few(names: Iterable[Any]) -> str:
    """The first eight names, and how many more there are."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


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


def _note(recipe: Recipe, catalogue: Catalogue, tasks: Path) -> model_folder.Note:
    template = templates.load("next_item").chosen(recipe.tasks.wordings)
    held_out = (template.held_out or template.train)[0].prompt
    held = items_held(recipe.tasks, catalogue.codes.shape[1])
    return model_folder.Note(catalogue.hash, held, template.train[0].prompt, held_out, *_searches(recipe, tasks))


def _searches(recipe: Recipe, tasks: Path) -> tuple[str, str]:
    """Prompts for a wish in words that the model learns, without a history and with one; "" where it learns none."""
    if not any((tasks / "examples").glob("item_search-*")):
        return "", ""
    known = [one.prompt for one in templates.load("item_search").chosen(recipe.tasks.wordings).train]
    after = ["history" in [slot for _, slot in templates.parts(prompt)] for prompt in known]
    alone, both = ([one for one, has in zip(known, after, strict=True) if has is wanted] for wanted in (False, True))
    return next(iter(alone), ""), next(iter(both), "")
