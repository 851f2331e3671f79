"""The model that training starts from: nano from scratch, with a tokenizer made from the examples."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.files import atomic_folder
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import nano
from llmrec.model.vocabulary import add_tokens
from llmrec.recipe import Model
from llmrec.seed import seed_everything
from llmrec.train.encode import encode_examples

ROOM = 64  # positions beyond the longest example, for wordings of evaluation


def start(
    model: Model, examples: pa.Table, catalogue: Catalogue, seed: int, work: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Tokenizer with the item tokens, and the model before its first step.

    Args:
        model: the recipe's part.
        examples: the training examples; nano's own vocabulary is learnt from their words.
        catalogue: for the item tokens.
        seed: of the weights.
        work: folder that keeps the tokenizer of a killed run.

    Raises:
        ModelError: an unknown base.
    """
    if model.base != "nano":
        raise ModelError(f"model.base: '{model.base}' is not known. There is: nano")
    kept = work / "tokenizer"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            nano.train_tokenizer(_words(examples), model.vocabulary, folder)
    tokenizer = AutoTokenizer.from_pretrained(kept)
    rows = add_tokens(tokenizer, catalogue.tokens)
    longest = max(len(example.tokens) for example in encode_examples(examples, tokenizer, 1 << 20))
    seed_everything(seed)
    return nano.build(model, tokenizer, -(-(longest + ROOM) // 64) * 64, rows), tokenizer


def _words(examples: pa.Table) -> list[str]:
    """Prompts and answers without the item codes."""
    code = re.compile(r"<[a-z]_\d+>")
    return [code.sub("", text) for name in ("prompt", "answer") for text in examples[name].unique().to_pylist()]
