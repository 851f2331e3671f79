"""The model that training starts from: nano from scratch, or a pretrained base with rows for the item tokens."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.checked import REMEDY, read_array, read_checked
from llmrec.errors import RunError
from llmrec.files import atomic_folder, write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model import nano
from llmrec.model.base import load_base, tiny_base
from llmrec.model.loading import tokenizer_from
from llmrec.model.rows import Initial, Known, begin, grow, initial
from llmrec.model.vocabulary import add_tokens, new_token_ids
from llmrec.recipe import Indexing, Recipe
from llmrec.run_files import read_texts
from llmrec.seed import seed_everything
from llmrec.tasks.examples import stream_batches
from llmrec.train.encode import longest

ROOM = 64  # positions beyond the longest example, for wordings of evaluation
WORDS = 1 << 24  # characters that a vocabulary is learnt from; of more there is a sample


def start(
    recipe: Recipe, tasks: Path, catalogue: Catalogue, work: Path, run: Path, previous: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The plain model before anything of it is chosen for training, and its tokenizer with the item tokens.

    Args:
        recipe: of the run; `model` says which base and how the rows of item tokens start.
        tasks: folder of the training examples; nano's own vocabulary is learnt from their words.
        catalogue: for the item tokens.
        work: folder that keeps the tokenizer of a killed run, and the length of the longest example.
        run: the run folder; what is known of items is read there where rows start from it.
        previous: a model folder to go on from, whose tokenizer has the item tokens already.

    Returns:
        The same model, bit for bit, whenever it is called.

    Raises:
        ModelError: a base that cannot be loaded or used.
    """
    seed_everything(recipe.seed)
    if previous:
        model, tokenizer, _ = model_folder.load(previous, torch.float32)
        return model, tokenizer
    if recipe.model.base == "nano":
        return _nano(recipe, tasks, catalogue, work, run)
    return _pretrained(recipe, tasks, catalogue, work, run)


def _nano(
    recipe: Recipe, tasks: Path, catalogue: Catalogue, work: Path, run: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    kept = work / "tokenizer"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            nano.train_tokenizer(words(tasks), recipe.model.vocabulary, folder)
    tokenizer = tokenizer_from(kept)
    rows = add_tokens(tokenizer, catalogue.tokens)
    if not (work / "longest.json").is_file():
        write_json(work / "longest.json", longest(stream_batches(tasks), tokenizer))
    window = -(-(read_checked(work / "longest.json", int) + ROOM) // 64) * 64
    model = nano.build(recipe.model, tokenizer, window, rows)
    if recipe.model.init_tokens == "vectors":
        new = new_token_ids(tokenizer, catalogue.tokens)
        begin(model, new, recipe.seed, _initial(recipe, catalogue, len(new), tokenizer, run))
    return model, tokenizer


def _pretrained(
    recipe: Recipe, tasks: Path, catalogue: Catalogue, work: Path, run: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    base = recipe.model.base
    if recipe.model.tiny:
        model, tokenizer = tiny_base(base, words(tasks), work / "tokenizer")
    else:
        model, tokenizer = load_base(base, torch.float32)
    rows = add_tokens(tokenizer, catalogue.tokens)
    new = new_token_ids(tokenizer, catalogue.tokens)
    grow(model, rows, new, recipe.seed, _initial(recipe, catalogue, len(new), tokenizer, run))
    return model, tokenizer


def _initial(
    recipe: Recipe, catalogue: Catalogue, tokens: int, tokenizer: PreTrainedTokenizerBase, run: Path
) -> Initial:
    """Where the recipe lets the rows of so many new tokens start."""

    def about() -> Known:
        facts = known(catalogue, tokens, tokenizer, run)
        return replace(facts, vectors=quantized(run)) if recipe.model.init_tokens == "vectors" else facts

    return initial(recipe.model.init_tokens, about)


def quantized(run: Path) -> np.ndarray:
    """(items, dim) float32 vectors of text, of behaviour or of both, as the recipe's `indexing.vectors` says."""
    from llmrec.indexing.frozen import SETTINGS  # it brings faiss along
    from llmrec.indexing.vectors import Source

    files = sorted((run / "items" / "vectors").glob("*.npy"))
    if len(files) != 1:
        raise RunError(f"{run / 'items' / 'vectors'} must hold one .npy file, not {len(files)}. {REMEDY}")
    text = read_array(files[0], 2)
    source = Source.load(read_checked(run / "catalogue" / SETTINGS, Indexing).vectors, run / "catalogue")
    return source.of(text, source.behaviour)


def known(catalogue: Catalogue, tokens: int, tokenizer: PreTrainedTokenizerBase, run: Path) -> Known:
    """What a run knows of the items behind its tokens: their texts, and the quantizer's centroids where it keeps any.

    Args:
        catalogue: of the run.
        tokens: how many are new: the catalogue's, and others after them.
        tokenizer: of the base.
        run: the run folder.
    """
    from llmrec.indexing.build import BOOKS  # it brings faiss along

    widths, file = catalogue.widths, run / "catalogue" / BOOKS
    texts = tokenizer(read_texts(run, len(catalogue.codes)), add_special_tokens=False)["input_ids"]
    levels = np.full(tokens, -1)
    levels[: len(catalogue.tokens)] = np.repeat(np.arange(len(widths)), widths)
    if not file.is_file():
        return Known(catalogue.codes, levels, texts, None)
    books = read_array(file, 3).astype(np.float32)
    centroids = np.full((tokens, books.shape[2]), np.nan, np.float32)
    for start_at, book in zip(np.cumsum([0, *widths]), books, strict=False):  # the separating level has no book
        centroids[start_at : start_at + len(book)] = book
    return Known(catalogue.codes, levels, texts, centroids)


def words(tasks: Path, most: int = WORDS) -> list[str]:
    """Prompts and answers without the item codes, each once.

    Args:
        tasks: folder of the examples.
        most: characters; of more, those texts are kept whose hash is small, whatever their order.
    """
    kept: set[str] = set()
    size, share = 0, 1 << 32
    for batch in stream_batches(tasks, ["prompt", "answer"]):
        for column in batch.columns:
            for text in pc.replace_substring_regex(column, r"<[a-z]_\d+>", "").unique().to_pylist():
                if text in kept or (share < 1 << 32 and _hash(text) >= share):
                    continue
                kept.add(text)
                size += len(text)
                while size > most:
                    share //= 2
                    kept = {one for one in kept if _hash(one) < share}
                    size = sum(map(len, kept))
    return sorted(kept)


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
