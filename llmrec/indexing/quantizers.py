"""Fit, save and load the quantizer of `indexing.method`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmrec.checked import read_array, read_arrays
from llmrec.errors import CodeError
from llmrec.indexing.codebooks import Codebooks, ProductQuantizer, Tree, kmeans_tree, product_quantizer, residual_kmeans
from llmrec.indexing.codes import Quantizer, RawCodes
from llmrec.recipe import Indexing

VECTOR_METHODS = ("rq-kmeans", "balanced-rq-kmeans", "rq-vae", "kmeans-tree", "pq", "opq")
BOOKS, ARRAYS = "codebooks.npy", "quantizer.npz"
_REMEDY = "Without it new items get no codes. Copy the folder again, or run the recipe again."
# axes of the arrays in quantizer.npz; methods that are not listed have codebooks
_AXES = {
    "kmeans-tree": {"paths": 2, "centroids": 2, "width": 0},
    "pq": {"rotation": 2, "centroids": 3},
    "opq": {"rotation": 2, "centroids": 3},
}


def fit(method: str, settings: Indexing, vectors: np.ndarray, seed: int) -> RawCodes:
    """Fit a quantizer to (items, dim) float32 finite vectors, and encode the items.

    Raises:
        CodeError: fewer items than codes of a level.
    """
    levels, width = settings.levels, settings.width
    quantizer: Quantizer
    facts: dict[str, Any] = {}
    if method == "kmeans-tree":
        quantizer, codes, residual = kmeans_tree(vectors, levels, width, seed)
    elif method in ("pq", "opq"):
        quantizer = product_quantizer(vectors, levels, width, seed, rotate=method == "opq")
        codes, residual = quantizer.encode(vectors)
    elif method == "rq-vae":
        from llmrec.indexing import rq_vae

        quantizer, facts = rq_vae.fit(vectors, levels, width, seed, settings.epochs)
        codes, residual = quantizer.encode(vectors)
    else:
        quantizer, codes, residual = residual_kmeans(vectors, levels, width, seed, method == "balanced-rq-kmeans")
    priority = np.linalg.norm(residual, axis=1)
    return RawCodes.per_level(codes, [width] * codes.shape[1], priority, quantizer=quantizer, facts=facts)


def save(quantizer: Quantizer, settings: Indexing, folder: Path) -> None:
    """Write a quantizer; residual k-means without BPE is `codebooks.npy`, (levels, width, dim)."""
    if isinstance(quantizer, Codebooks) and settings.bpe_vocab is None:
        np.save(folder / BOOKS, quantizer.centroids)
    else:
        np.savez(folder / ARRAYS, **quantizer.arrays())  # type: ignore[arg-type]


def load(settings: Indexing, folder: Path) -> Quantizer | None:
    """Load the quantizer of a catalogue folder; None if its method has none.

    Raises:
        CodeError: the file is missing, damaged or of other settings.
    """
    method = settings.method
    if method not in VECTOR_METHODS:
        return None
    quantizer: Quantizer
    if (folder / BOOKS).is_file():
        quantizer = Codebooks(read_array(folder / BOOKS, 3, _REMEDY, CodeError))
    else:
        arrays = read_arrays(folder / ARRAYS, _AXES.get(method, {"centroids": 3}), _REMEDY, CodeError)
        try:
            quantizer = _from_arrays(method, arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CodeError(f"{folder / ARRAYS} is not of the method {method} ({error}). {_REMEDY}") from error
    if not _fits(quantizer, settings):
        raise CodeError(
            f"the quantizer in {folder} does not give codes of {settings.levels} levels with {settings.width} tokens, "
            f"which its settings say. {_REMEDY}"
        )
    return quantizer


def _from_arrays(method: str, arrays: dict[str, np.ndarray]) -> Quantizer:
    if method == "rq-vae":
        from llmrec.indexing.rq_vae import RqVae

        return RqVae.from_arrays(arrays)
    if method == "kmeans-tree":
        return Tree(arrays["paths"], arrays["centroids"], int(arrays["width"]))
    return ProductQuantizer(**arrays) if method in ("pq", "opq") else Codebooks(arrays["centroids"])


def _fits(quantizer: Quantizer, settings: Indexing) -> bool:
    """Whether a quantizer has the levels and the width of its settings."""
    try:
        codes = quantizer.encode(np.zeros((1, quantizer.dim), np.float32))[0]
        books = quantizer.arrays()["centroids"]  # (levels, width, dim), except for a tree: (nodes, dim)
        fits = codes.shape == (1, settings.levels) and codes.max() < settings.width
        return bool(fits and (books.ndim != 3 or books.shape[:2] == (settings.levels, settings.width)))
    except (ValueError, IndexError, TypeError, RuntimeError):
        return False
