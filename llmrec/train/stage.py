"""A training stage: the model it starts from, its rows, the loop, and the plain model folder it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from llmrec.files import write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt, old_rows_trained
from llmrec.model.merge import cost, is_quantized, merged
from llmrec.model.moved import Before, moved
from llmrec.model.vocabulary import MENTION, new_token_ids
from llmrec.recipe import Recipe
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.maker import items_held
from llmrec.train import sft, together
from llmrec.train.encode import Encoded, encode_examples, used
from llmrec.train.memory import explain_memory
from llmrec.train.order import Order
from llmrec.train.packing import PackedRows
from llmrec.train.spares import Spares
from llmrec.train.start import start

Progress = sft.Progress
Validate = Callable[[Any, PreTrainedTokenizerBase, model_folder.Note], float]  # a model as it stands → a figure


def make(
    recipe: Recipe,
    number: int,
    catalogue: Catalogue,
    examples: pa.Table,
    key: str,
    work: Path,
    run: Path,
    previous: Path | None,
    target: Path,
    progress: Progress,
    validate: Validate | None = None,
    logs: Path | None = None,
) -> dict[str, Any]:
    """Train in a work folder that survives a kill, then write model/, adapter/ and log.jsonl into the stage's folder.

    Of several processes that train together all call this, and the first one writes.

    Args:
        recipe: of the run.
        number: of the training stage, from 1.
        catalogue: for the item tokens.
        examples: the table of the stage `tasks`.
        key: hash of all that the result depends on; a work folder of another key is thrown away.
        work: where checkpoints are.
        run: the run folder.
        previous: the model folder to go on from, if any; the recipe's base otherwise.
        target: the stage's folder.
        progress: told the share done.
        validate: the figure for early stopping, where the recipe asks for it.
        logs: folder for trackers; None for none.

    Returns:
        Facts for made.json: sizes, trained parameters, how far the rows of new tokens moved; none but in the first
        process.

    Raises:
        ModelError: see `start`, `encode_examples` and `sft.train`; or no row of a new token moved.
    """
    part, name, note = recipe.train[number - 1], f"train.{number - 1}", _note(recipe, catalogue)
    if together.is_first():
        _claim(work, key)
    begin = partial(start, recipe, examples, catalogue, work, run, previous)
    method = part.adapt or recipe.model.adapt
    with together.in_turn(), explain_memory(part, name, method):
        model, tokenizer = begin()
        new = new_token_ids(tokenizer, catalogue.tokens)
        before = Before.of(model, new)
        model = adapt(model, recipe.model, method, new)
    window = model.config.get_text_config().max_position_embeddings
    spares = Spares.of(catalogue, new, part.spare_share, recipe.seed, number)
    encoded = encode_examples(examples, tokenizer, window, spares)
    longest = max(len(example.tokens) for example in encoded)
    rows = PackedRows(encoded, part.row_tokens or longest, stream(recipe.seed, "pack", number))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    dropout = recipe.model.dropout if recipe.model.base == "nano" else 0.0
    around = sft.Around(
        name,
        method,
        (lambda model: validate(model, tokenizer, note)) if validate else None,
        partial(_described, rows, examples),
        logs,
        recipe.launch.report_to,
    )
    done = sft.train(model, rows, part, recipe.seed, work, dropout, progress, around)
    if not together.is_first():
        return {}
    if done.weights is not None:  # what a strategy has cut up is put together in a model of this process alone
        model = adapt(begin()[0], recipe.model, method, new)
        model.load_state_dict(done.weights)
    plain = merged(model, tokenizer, target, lambda: begin()[0])
    model_folder.save(plain, tokenizer, note, target / "model")
    shutil.copy(work / "log.jsonl", target / "log.jsonl")
    return {
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "trained parameters": trained,
        "new rows": moved(
            before,
            plain,
            new,
            [*catalogue.tokens, MENTION],
            used(_seen(rows, part.batch, recipe.seed, done.facts), new),
            np.isin(np.arange(len(new)), catalogue.codes, invert=True),
            old_rows_trained(recipe.model, method),
        ),
        "examples": len(encoded),
        "rows": len(rows),
        "tokens": sum(len(example.tokens) for example in encoded),
        "supervised tokens": rows.supervised,
        **done.facts,
        **({"merge": _merge_cost(model, plain, encoded)} if is_quantized(model) else {}),
    }


def _claim(work: Path, key: str) -> None:
    """Throw away what another recipe, or other inputs, left in the work folder: its checkpoints fit nothing here."""
    if not (work / "key").is_file() or (work / "key").read_text() != key:
        shutil.rmtree(work, ignore_errors=True)
        write_text(work / "key", key)


def _described(rows: PackedRows, examples: pa.Table, numbers: list[int]) -> str:
    """What stands in some packed rows: their numbers, users and tasks."""
    held = examples.take([example for number in numbers for example in rows.rows[number]])
    users, tasks = (held[name].unique().to_pylist() for name in ("user_id", "task"))
    return f"rows {_few(numbers)}; users {_few(user for user in users if user)}; tasks {_few(tasks)}"


def _few(names: Iterable[Any], most: int = 8) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _seen(rows: PackedRows, batch: int, seed: int, facts: dict[str, Any]) -> list[Encoded]:
    """Examples of all the steps that the model has taken: fewer than there are where training ended early."""
    steps = facts.get("best step", facts["steps"])
    taken = islice(Order(len(rows), batch, seed % 2**32), steps * batch)
    return [rows.examples[example] for row in taken for example in rows.rows[row]]


def _merge_cost(trained: Any, plain: Any, encoded: list[Encoded], most: int = 32) -> dict[str, float]:
    """What the merge of an adapter that was trained over a quantized base costs, on examples from all of them."""
    sample = encoded[:: max(1, len(encoded) // most)][:most]
    return cost(trained, plain, [(example.tokens, example.supervised) for example in sample])


def _note(recipe: Recipe, catalogue: Catalogue) -> model_folder.Note:
    template = templates.load("next_item")
    held_out = (template.held_out or template.train)[0].prompt
    return model_folder.Note(
        catalogue.hash, items_held(recipe.tasks, catalogue.codes.shape[1]), template.train[0].prompt, held_out
    )
