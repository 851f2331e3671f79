"""The model that training starts from: nano from scratch, or a pretrained base with rows for the item tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llmrec.files import atomic_folder
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model import nano
from llmrec.model.adapt import grow, lora
from llmrec.model.base import load_base, tiny_base
from llmrec.model.vocabulary import add_tokens, new_token_ids
from llmrec.recipe import Recipe
from llmrec.seed import seed_everything
from llmrec.train.encode import encode_examples

ROOM = 64  # positions beyond the longest example, for wordings of evaluation


def start(
    recipe: Recipe, examples: pa.Table, catalogue: Catalogue, work: Path, previous: Path | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model before its first step, and its tokenizer with the item tokens.

    Args:
        recipe: of the run; `model` says which base and what of it is trained.
        examples: the training examples; nano's own vocabulary is learnt from their words.
        catalogue: for the item tokens.
        work: folder that keeps the tokenizer of a killed run.
        previous: a model folder to go on from, whose tokenizer has the item tokens already.

    Returns:
        A model of transformers, inside peft's where adapters are trained.

    Raises:
        ModelError: a base that cannot be loaded or used.
    """
    seed_everything(recipe.seed)
    if previous:
        return _previous(recipe, catalogue, previous)
    if recipe.model.base == "nano":
        return _nano(recipe, examples, catalogue, work)
    return _pretrained(recipe, examples, catalogue, work)


def _previous(recipe: Recipe, catalogue: Catalogue, previous: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    model, tokenizer, _ = model_folder.load(previous, torch.float32)
    new = new_token_ids(tokenizer, catalogue.tokens)
    return (lora(model, recipe.model.rank, new) if recipe.model.adapt == "lora" else model), tokenizer


def _nano(recipe: Recipe, examples: pa.Table, catalogue: Catalogue, work: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    kept = work / "tokenizer"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            nano.train_tokenizer(_words(examples), recipe.model.vocabulary, folder)
    tokenizer = AutoTokenizer.from_pretrained(kept)
    rows = add_tokens(tokenizer, catalogue.tokens)
    longest = max(len(example.tokens) for example in encode_examples(examples, tokenizer, 1 << 20))
    return nano.build(recipe.model, tokenizer, -(-(longest + ROOM) // 64) * 64, rows), tokenizer


def _pretrained(
    recipe: Recipe, examples: pa.Table, catalogue: Catalogue, work: Path
) -> tuple[Any, PreTrainedTokenizerBase]:
    base = recipe.model.base
    if recipe.model.tiny:
        model, tokenizer = tiny_base(base, _words(examples), work / "tokenizer")
    else:
        model, tokenizer = load_base(base, torch.float32)
    rows = add_tokens(tokenizer, catalogue.tokens)
    new = new_token_ids(tokenizer, catalogue.tokens)
    grow(model, rows, new, recipe.seed)
    return (lora(model, recipe.model.rank, new) if recipe.model.adapt == "lora" else model), tokenizer


def _words(examples: pa.Table) -> list[str]:
    """Prompts and answers without the item codes."""
    code = re.compile(r"<[a-z]_\d+>")
    return [code.sub("", text) for name in ("prompt", "answer") for text in examples[name].unique().to_pylist()]
