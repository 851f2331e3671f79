"""Texts to vectors: all-MiniLM-L6-v2 by default, or hashed words where no encoder may be loaded (`--tiny`, tests)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from llmrec import embedded
from llmrec.errors import DataError, ModelError

Progress = Callable[[float], None]


def encode(texts: list[str], encoder: str, progress: Progress = lambda done: None) -> np.ndarray:
    """Unit vectors of texts.

    Args:
        texts: one an item.
        encoder: a key of `ENCODERS`.
        progress: told the share done, 0 to 1.

    Returns:
        (texts, dim) float32, rows of length 1.

    Raises:
        ModelError: there is no such encoder.
        DataError: a vector is zero or not finite (which texts).
    """
    check_encoder(encoder)
    vectors = ENCODERS[encoder](texts, progress)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    broken = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(broken):
        shown = "; ".join(f"row {row}: '{texts[row][:40]}'" for row in broken[:5])
        raise DataError(
            f"the encoder {encoder} gives no usable vector for {len(broken)} item(s): {shown}. Give them more text."
        )
    return (vectors / norms).astype(np.float32)


def check_encoder(encoder: str) -> None:
    """Refuse a name that no encoder has.

    Raises:
        ModelError: there is no such encoder.
    """
    if encoder not in ENCODERS:
        raise ModelError(f"there is no encoder '{encoder}': say {' or '.join(ENCODERS)}.")


def minilm(texts: list[str], progress: Progress) -> np.ndarray:
    """Mean-pooled last hidden states of all-MiniLM-L6-v2, 384 numbers; texts are cut at 256 tokens.

    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (model card).
    """
    import torch

    tokenizer, model = _minilm()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # like lengths together: little padding
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        vectors[rows] = ((hidden * weight).sum(1) / weight.sum(1)).numpy()
        progress(min(1.0, (start + 64) / len(order)))
    return vectors


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    """Tokenizer and model: loaded once, since a chat encodes a few words at a time."""
    from transformers import AutoModel, AutoTokenizer

    folder = embedded.path("minilm-l6")
    model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), model.eval()


def hashed_words(texts: list[str], progress: Progress) -> np.ndarray:
    """Signed hashed bag of words and character trigrams, 256 numbers: no model, no meaning beyond spelling.

    Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
    """
    vectors = np.zeros((len(texts), 256), np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower()) or [text]
        for feature in words + [word[i : i + 3] for word in words for i in range(len(word) - 2)]:
            code = zlib.crc32(feature.encode())
            vectors[row, code % 256] += 1 if code >> 31 else -1
        if not vectors[row].any():  # features that cancel one another out
            vectors[row, zlib.crc32(text.encode()) % 256] = 1
    progress(1.0)
    return vectors


ENCODERS: dict[str, Callable[[list[str], Progress], np.ndarray]] = {"minilm-l6": minilm, "hashing": hashed_words}
