"""The initial model of a training: a new nano, or a pretrained base with embedding rows for the item tokens."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.checked import read_array, read_checked
from llmrec.files import atomic_folder, write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.items import read_texts, read_vectors
from llmrec.model import folder as model_folder
from llmrec.model import nano
from llmrec.model.base import load_base, tiny_base
from llmrec.model.embeddings import Initializer, ItemInfo, init_rows, initializer, resize
from llmrec.model.loading import tokenizer_from
from llmrec.model.vocabulary import add_tokens, new_token_ids
from llmrec.recipe import Indexing
from llmrec.seed import seed_everything
from llmrec.tasks.examples import stream_batches
from llmrec.train.encode import longest
from llmrec.train.job import TrainJob

ROOM = 64  # positions beyond the longest training example, for held-out templates
SAMPLE = 1 << 24  # characters that a vocabulary is trained on at most


def build_model(job: TrainJob, catalogue: Catalogue) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build the model before training, without adapters, and its tokenizer with the item tokens.

    The result of a job is the same, bit for bit, at every call. The tokenizer of a nano and the length of the longest
    example are kept in the job's work folder.

    Raises:
        ModelError: the base cannot be loaded or used.
    """
    seed_everything(job.seed)
    if job.previous:
        model, tokenizer, _ = model_folder.load(job.previous, torch.float32)
        return model, tokenizer
    return _nano(job, catalogue) if job.model.base == "nano" else _pretrained(job, catalogue)


def _nano(job: TrainJob, catalogue: Catalogue) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    kept, longest_file = job.work / "tokenizer", job.work / "longest.json"
    if not kept.is_dir():
        with atomic_folder(kept) as folder:
            nano.train_tokenizer(vocabulary_texts(job.tasks_folder), job.model.vocabulary, folder)
    tokenizer = tokenizer_from(kept)
    rows = add_tokens(tokenizer, catalogue.tokens)
    if not longest_file.is_file():
        write_json(longest_file, longest(stream_batches(job.tasks_folder), tokenizer))
    window = -(-(read_checked(longest_file, int) + ROOM) // 64) * 64
    model = nano.build(job.model, tokenizer, window, rows)
    if job.model.init_tokens == "vectors":
        new = new_token_ids(tokenizer, catalogue.tokens)
        init_rows(model, new, job.seed, _initial(job, catalogue, len(new), tokenizer))
    return model, tokenizer


def _pretrained(job: TrainJob, catalogue: Catalogue) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if job.model.tiny:
        model, tokenizer = tiny_base(job.model.base, vocabulary_texts(job.tasks_folder), job.work / "tokenizer")
    else:
        model, tokenizer = load_base(job.model.base, torch.float32)
    rows = add_tokens(tokenizer, catalogue.tokens)
    new = new_token_ids(tokenizer, catalogue.tokens)
    resize(model, rows, new, job.seed, _initial(job, catalogue, len(new), tokenizer))
    return model, tokenizer


def _initial(job: TrainJob, catalogue: Catalogue, tokens: int, tokenizer: PreTrainedTokenizerBase) -> Initializer:
    """The recipe's initializer of so many new rows."""

    def info() -> ItemInfo:
        result = item_info(job.items, job.catalogue, catalogue, tokens, tokenizer)
        vectors = job.model.init_tokens == "vectors"
        return replace(result, vectors=quantized_vectors(job.items, job.catalogue)) if vectors else result

    return initializer(job.model.init_tokens, info)


def quantized_vectors(items: Path, catalogue: Path) -> np.ndarray:
    """(items, dim) float32 vectors that the codes were made from, fused as `indexing.fusion` says.

    Args:
        items: folder of the stage that encoded the items.
        catalogue: folder of the catalogue.
    """
    from llmrec.indexing.new_items import SETTINGS  # imports faiss
    from llmrec.indexing.vectors import VectorSource

    text = read_vectors(items)
    source = VectorSource.load(read_checked(catalogue / SETTINGS, Indexing).fusion, catalogue)
    return source.combine(text, source.collaborative)


def item_info(
    items: Path, folder: Path, catalogue: Catalogue, tokens: int, tokenizer: PreTrainedTokenizerBase
) -> ItemInfo:
    """Read codes and texts of the items, and the centroids of the quantizer if it has any.

    Args:
        items: folder of the stage that encoded the items.
        folder: of the catalogue.
        tokens: number of new tokens: the catalogue's, and others after them.
    """
    from llmrec.indexing.quantizers import BOOKS  # imports faiss

    widths, file = catalogue.widths, folder / BOOKS
    texts = tokenizer(read_texts(items, len(catalogue.codes)), add_special_tokens=False)["input_ids"]
    levels = np.full(tokens, -1)
    levels[: len(catalogue.tokens)] = np.repeat(np.arange(len(widths)), widths)
    if not file.is_file():
        return ItemInfo(catalogue.codes, levels, texts, None)
    books = read_array(file, 3).astype(np.float32)
    centroids = np.full((tokens, books.shape[2]), np.nan, np.float32)
    for start, book in zip(np.cumsum([0, *widths]), books, strict=False):  # a level that resolves collisions has none
        centroids[start : start + len(book)] = book
    return ItemInfo(catalogue.codes, levels, texts, centroids)


def vocabulary_texts(tasks: Path, most: int = SAMPLE) -> list[str]:
    """Distinct prompts and answers without item codes, to train a vocabulary on.

    Args:
        tasks: folder of the examples.
        most: characters; of more, a sample by hash, which does not depend on the order of the examples.
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
                    kept = {other for other in kept if _hash(other) < share}
                    size = sum(map(len, kept))
    return sorted(kept)


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
