"""Vectors of items: encoded texts, and co-occurrence in histories (PPMI and SVD)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from llmrec import resources
from llmrec.contracts import Sequences
from llmrec.errors import DataError, ModelError

WINDOW = 5  # items co-occur if they are at most so many steps apart in a history
Progress = Callable[[float], None]  # called with the share done, 0 to 1


def encode(texts: list[str], encoder: str, progress: Progress = lambda done: None) -> np.ndarray:
    """Encode texts with an encoder of `ENCODERS`.

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
    """Raise ModelError for the name of an unknown encoder."""
    if encoder not in ENCODERS:
        raise ModelError(f"there is no encoder '{encoder}': take {' or '.join(ENCODERS)}.")


def minilm(texts: list[str], progress: Progress) -> np.ndarray:
    """Mean-pooled last hidden states of all-MiniLM-L6-v2, 384 numbers; texts are cut at 256 tokens.

    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (model card).
    """
    import torch

    tokenizer, model = _minilm()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # similar lengths together: little padding
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
    """Tokenizer and model, loaded once: a chat encodes a few words at a time."""
    from transformers import AutoModel, AutoTokenizer

    folder = resources.asset_path("minilm-l6")
    model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), model.eval()


def hash_features(texts: list[str], progress: Progress) -> np.ndarray:
    """Signed hashed bag of words and character trigrams, 256 numbers: for `--tiny` and tests.

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


ENCODERS: dict[str, Callable[[list[str], Progress], np.ndarray]] = {"minilm-l6": minilm, "hashing": hash_features}


def ppmi_vectors(train: Sequences, n_items: int, width: int, seed: int) -> np.ndarray:
    """Vectors whose inner products approximate PPMI: truncated SVD with symmetric weights (singular values to 1/2).

    Args:
        train: the training part of every history, oldest item first.
        n_items: of the catalogue.
        width: dimensions of a vector; fewer where there are fewer items.
        seed: of the randomised SVD.

    Returns:
        (n_items, width) float32; zeros for an item without co-occurrences.

    Source: Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization".
    """
    import torch

    first, second, value = ppmi_pairs(train, n_items)
    width = min(width, n_items)
    if not len(value):
        return np.zeros((n_items, width), np.float32)
    indices = torch.from_numpy(np.stack([first, second]))
    table = torch.sparse_coo_tensor(
        indices, torch.from_numpy(value), (n_items, n_items), check_invariants=True
    ).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        left, size, _ = torch.svd_lowrank(table, q=min(n_items, width + 8), niter=4)
    vectors = (left[:, :width] * size[:width].sqrt()).numpy()
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])  # the SVD does not determine them
    has_neighbours = np.bincount(first, minlength=n_items) > 0
    return np.ascontiguousarray(vectors * np.where(signs == 0, 1, signs) * has_neighbours[:, None], np.float32)


def ppmi_pairs(train: Sequences, n_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive PMI: (n,) int64 items, (n,) int64 items they co-occur with, (n,) float32 nats; sorted, symmetric."""
    rows, items = train.rows, train.items.astype(np.int64)
    keys = []
    for step in range(1, WINDOW + 1):
        same = (rows[step:] == rows[:-step]) & (items[step:] != items[:-step])
        left, right = items[:-step][same], items[step:][same]
        keys += [left * n_items + right, right * n_items + left]
    pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
    first, second = pairs // n_items, pairs % n_items
    total = np.bincount(first, counts, minlength=n_items)
    value = np.log(counts * total.sum() / (total[first] * total[second])) if len(pairs) else np.zeros(0)
    keep = value > 0
    return first[keep], second[keep], value[keep].astype(np.float32)
