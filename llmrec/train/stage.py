"""A training stage: the model it starts from, its rows, the loop, and the plain model folder it leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmrec.files import write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import merged, moved
from llmrec.model.vocabulary import new_token_ids
from llmrec.recipe import Recipe
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.train import sft
from llmrec.train.encode import encode_examples
from llmrec.train.packing import PackedRows
from llmrec.train.start import start

Progress = sft.Progress


def make(
    recipe: Recipe,
    number: int,
    catalogue: Catalogue,
    examples: pa.Table,
    key: str,
    work: Path,
    previous: Path | None,
    target: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train in a work folder that survives a kill, then write model/, adapter/ and log.jsonl into the stage's folder.

    Args:
        recipe: of the run.
        number: of the training stage, from 1.
        catalogue: for the item tokens.
        examples: the table of the stage `tasks`.
        key: hash of all that the result depends on; a work folder of another key is thrown away.
        work: where checkpoints are.
        previous: the model folder to go on from, if any; the recipe's base otherwise.
        target: the stage's folder.
        progress: told the share done.

    Returns:
        Facts for made.json: sizes, trained parameters, how far the rows of new tokens moved.

    Raises:
        ModelError: see `start`, `encode_examples` and `sft.train`; or no row of a new token moved.
    """
    if not (work / "key").is_file() or (work / "key").read_text() != key:
        shutil.rmtree(work, ignore_errors=True)
        write_text(work / "key", key)
    part = recipe.train[number - 1]
    model, tokenizer = start(recipe, examples, catalogue, work, previous)
    new = new_token_ids(tokenizer, catalogue.tokens)
    before = model.get_input_embeddings().weight[new.tolist()].detach().clone()
    encoded = encode_examples(examples, tokenizer, model.config.get_text_config().max_position_embeddings)
    longest = max(len(example.tokens) for example in encoded)
    rows = PackedRows(encoded, part.row_tokens or longest, stream(recipe.seed, "pack", number))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sft.train(
        model, rows, part, recipe.seed, work, recipe.model.dropout if recipe.model.base == "nano" else 0.0, progress
    )
    plain = merged(model, target)
    model_folder.save(plain, tokenizer, _note(recipe, catalogue), target / "model")
    shutil.copy(work / "log.jsonl", target / "log.jsonl")
    return {
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "trained parameters": trained,
        "new rows": moved(before, plain, new),
        "examples": len(encoded),
        "rows": len(rows),
        "tokens": sum(len(example.tokens) for example in encoded),
        "supervised tokens": rows.supervised,
    }


def _note(recipe: Recipe, catalogue: Catalogue) -> model_folder.Note:
    template = templates.load("next_item")
    held_out = (template.held_out or template.train)[0].prompt
    return model_folder.Note(catalogue.hash, recipe.tasks.history, template.train[0].prompt, held_out)
