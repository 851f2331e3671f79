"""What decoding is measured on: a language model with item tokens, and catalogues of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.model import folder as model_folder
from llmrec.model.base import load_base
from llmrec.model.vocabulary import add_tokens, token_ids

WIDTHS = [256] * 4  # 1,024 new tokens
LENGTHS = (60, 240)  # tokens of a prompt, uniform


def skewed_codes(random: np.random.Generator, items: int) -> np.ndarray:
    """(items, 4) distinct codes as clusters of items give them: Zipf within a prefix, the last level telling apart.

    Raises:
        ValueError: more items than half of the codes.
    """
    if items > 2**31:
        raise ValueError(f"{items} items are too many for codes of four levels of 256.")
    zipf = 1 / np.arange(1, 257)
    orders = np.array([random.permutation(256) for _ in range(256)])
    prefixes = np.zeros(0, np.int64)
    flat = False
    while len(prefixes) < items:  # a prefix holds 256 items; what is more is drawn again, evenly
        missing = items - len(prefixes)
        first = random.integers(0, 256, missing)
        weights = None if flat else zipf / zipf.sum()
        second = orders[first, random.choice(256, missing, p=weights)]
        third = orders[(first + second) % 256, random.choice(256, missing, p=weights)]
        prefixes = np.sort(np.concatenate([prefixes, (first * 256 + second) * 256 + third]))
        prefixes, flat = prefixes[_number(prefixes) < 256], True
    codes = np.stack([prefixes >> 16, (prefixes >> 8) & 255, prefixes & 255, _number(prefixes)], axis=1)
    return random.permutation(codes.astype(np.int32))


def _number(prefixes: np.ndarray) -> np.ndarray:
    """(n,) how many equal prefixes stand before each, in sorted order."""
    return np.arange(len(prefixes)) - np.searchsorted(prefixes, prefixes)


def catalogue_of(items: int, seed: int = 0) -> Catalogue:
    """A catalogue with codes of that shape."""
    names = [f"i{number}" for number in range(items)]
    return Catalogue.of(
        pa.table({"item_id": names, "title": names}), skewed_codes(np.random.default_rng(seed), items), WIDTHS
    )


def trie_of(items: int, seed: int = 0) -> Trie:
    """The trie alone of such a catalogue: a list of ten million ids would only cost memory."""
    starts = np.cumsum([0, *WIDTHS[:-1]], dtype=np.int32)
    return Trie.build(skewed_codes(np.random.default_rng(seed), items) + starts, sum(WIDTHS))


def prepare(folder: Path, catalogue: Catalogue, base: str, dtype: torch.dtype) -> tuple[Path, Path]:
    """A model folder and a catalogue folder, as a run makes them but untrained."""
    random = np.random.default_rng(0)
    model, tokenizer = load_base(base, dtype)
    torch.manual_seed(0)
    model.resize_token_embeddings(add_tokens(tokenizer, catalogue.tokens))
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.data
    new = token_ids(tokenizer, catalogue.tokens)
    rows[new] = rows[random.permutation(int(new.min()))[: len(new)]]  # equal rows would make every item a tie
    (folder / "catalogue").mkdir()
    catalogue.save(folder / "catalogue", {})
    meta = model_folder.ModelMeta(catalogue.hash, 50, "{history}", "{history}")
    model_folder.save(model, tokenizer, meta, folder / "model")
    return folder / "model", folder / "catalogue"


def prompts(random: np.random.Generator, rows: int, vocabulary: int) -> list[list[int]]:
    """Prompts of random words and of lengths `LENGTHS`, new at every call, so that nobody has them cached."""
    lengths = random.integers(LENGTHS[0], LENGTHS[1] + 1, rows)
    return [random.integers(100, vocabulary, length).tolist() for length in lengths]
