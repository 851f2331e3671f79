"""Tiny bases of every family with a catalogue's tokens in them, and a few steps of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.indexing.catalogue import Catalogue
from llmrec.model.base import tiny_base
from llmrec.model.embeddings import resize
from llmrec.model.prompting import encode_prompt
from llmrec.model.vocabulary import add_tokens, new_token_ids, token_ids
from llmrec.recipe import Sft
from llmrec.train import sft
from llmrec.train.encode import Encoded
from llmrec.train.packing import PackedRows

FAMILIES = {
    "qwen3": "Qwen/Qwen3-0.6B",
    "llama": "meta-llama/Llama-3.2-1B",
    "gemma2": "google/gemma-2-2b",
    "mistral": "mistralai/Mistral-7B",
    "phi": "microsoft/phi-2",
    "phi3": "microsoft/phi-4-mini",
}
WORDS = ["Somebody picked these, oldest first.", "What comes next? Name one item of the list, please."] * 3
WIDTHS = [4, 3, 5]  # of the last level, tokens 3 and 4 are spare
CODES = np.array([[a, b, (a + b) % 3] for a in range(4) for b in range(3)], np.int32)


def catalogue() -> Catalogue:
    """Twelve items of three tokens, as many titles."""
    names = [f"i{number}" for number in range(len(CODES))]
    return Catalogue.of(pa.table({"item_id": names, "title": [f"Film {name}" for name in names]}), CODES, WIDTHS)


def base(
    name: str, tied: bool, folder: Path, **given: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, np.ndarray]:
    """A base with random weights and rows for the catalogue's tokens; the same whenever it is asked for."""
    torch.manual_seed(0)
    model, tokenizer = tiny_base(FAMILIES[name], WORDS, folder, tied)
    assert model.config.model_type == name
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        model.get_output_embeddings().bias.data.normal_()
    rows = add_tokens(tokenizer, catalogue().tokens)
    new = new_token_ids(tokenizer, catalogue().tokens)
    resize(model, rows, new, seed=3, **given)
    return model, tokenizer, new


def examples(tokenizer: PreTrainedTokenizerBase, count: int = 8) -> list[Encoded]:
    """Histories of every item in turn, whose codes and end are supervised."""
    texts, own = catalogue().code_texts, token_ids(tokenizer, catalogue().tokens)
    out = []
    for start in range(count):
        history = "".join(np.roll(texts, start)[:6].tolist())
        ids = np.array([*encode_prompt(tokenizer, f"What comes next? {history}"), tokenizer.eos_token_id])
        out.append(Encoded(ids, np.isin(ids, [*own, tokenizer.eos_token_id])))
    return out


def train(model: Any, tokenizer: PreTrainedTokenizerBase, work: Path, **settings: Any) -> None:
    """Eight steps, or what `settings` say."""
    stage = Sft(**{"epochs": 2, "batch": 2, "learning_rate": 1e-2, "save_every": 100, **settings})
    rows = PackedRows(examples(tokenizer), 16, np.random.default_rng(0))
    sft.train(model, rows, stage, 0, work, 0.0, lambda done: None)
