"""Quantizers by name: fitted, written beside the codes, read again when new items come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.checked import read_array, read_arrays
from llmrec.errors import CodeError
from llmrec.indexing import kmeans_tree, product, rq_kmeans
from llmrec.indexing.codes import Drawn, Quantizer
from llmrec.indexing.kmeans_tree import Tree
from llmrec.indexing.product import Parts
from llmrec.indexing.rq_kmeans import Codebooks
from llmrec.recipe import Indexing

_REMEDY = "Without it new items get no codes. Copy the folder again, or run the recipe again."
BOOKS, ARRAYS = "codebooks.npy", "quantizer.npz"


def draw(settings: Indexing, vectors: np.ndarray, seed: int) -> Drawn:
    """Fit the quantizer that `settings.method` names, and code the items.

    Args:
        settings: method, levels, width, epochs.
        vectors: (items, dim) float32, finite.
        seed: of its starts.

    Raises:
        CodeError: fewer items than codes of a level.
    """
    quantizer, codes, residual, facts = _FIT[settings.method](settings, vectors, seed)
    rank = np.linalg.norm(residual, axis=1)
    return Drawn.levels(codes, [settings.width] * codes.shape[1], rank, quantizer=quantizer, facts=facts)


def save(quantizer: Quantizer, settings: Indexing, folder: Path) -> None:
    """Write a quantizer; residual k-means over vectors of items is `codebooks.npy`, (levels, width, dim)."""
    if isinstance(quantizer, Codebooks) and settings.pieces is None:
        np.save(folder / BOOKS, quantizer.centroids)
    else:
        np.savez(folder / ARRAYS, **quantizer.arrays())  # type: ignore[arg-type]


def load(settings: Indexing, folder: Path) -> Quantizer | None:
    """The quantizer of a catalogue folder; None where its method has none.

    Raises:
        CodeError: the folder lacks it, or it is damaged or of other settings.
    """
    method = settings.method
    if method not in _FIT:
        return None
    if (folder / BOOKS).is_file():
        quantizer: Quantizer = Codebooks(read_array(folder / BOOKS, 3, _REMEDY, CodeError))
    else:
        arrays = read_arrays(folder / ARRAYS, _DIMENSIONS.get(method, {"centroids": 3}), _REMEDY, CodeError)
        try:
            quantizer = _LOAD[method](arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CodeError(f"{folder / ARRAYS} is not of the method {method} ({error}). {_REMEDY}") from error
    _probe(quantizer, settings, folder)
    return quantizer


def _probe(quantizer: Quantizer, settings: Indexing, folder: Path) -> None:
    """Code one vector.

    Raises:
        CodeError: that fails, or gives a code of other levels or width.
    """
    try:
        codes = quantizer.encode(np.zeros((1, quantizer.dim), np.float32))[0]
        books = quantizer.arrays()["centroids"]  # (levels, width, dim), but of a tree (nodes, dim)
        fits = codes.shape == (1, settings.levels) and codes.max() < settings.width
        fits &= books.ndim != 3 or books.shape[:2] == (settings.levels, settings.width)
    except (ValueError, IndexError, TypeError, RuntimeError):
        fits = False
    if not fits:
        raise CodeError(
            f"the quantizer in {folder} does not give codes of {settings.levels} levels with {settings.width} tokens, "
            f"which its settings say. {_REMEDY}"
        )


Fitted = tuple[Quantizer, np.ndarray, np.ndarray, dict[str, Any]]


def _rq_kmeans(settings: Indexing, vectors: np.ndarray, seed: int) -> Fitted:
    books = rq_kmeans.fit(vectors, settings.levels, settings.width, seed)
    return books, *books.encode(vectors), {}


def _balanced(settings: Indexing, vectors: np.ndarray, seed: int) -> Fitted:
    return *rq_kmeans.fit_balanced(vectors, settings.levels, settings.width, seed), {}


def _tree(settings: Indexing, vectors: np.ndarray, seed: int) -> Fitted:
    return *kmeans_tree.fit(vectors, settings.levels, settings.width, seed), {}


def _product(settings: Indexing, vectors: np.ndarray, seed: int) -> Fitted:
    parts = product.fit(vectors, settings.levels, settings.width, seed, turned=settings.method == "opq")
    return parts, *parts.encode(vectors), {}


def _rq_vae(settings: Indexing, vectors: np.ndarray, seed: int) -> Fitted:
    from llmrec.indexing import rq_vae

    encoder, facts = rq_vae.fit(vectors, settings.levels, settings.width, seed, settings.epochs)
    return encoder, *encoder.encode(vectors), facts


def _load_rq_vae(arrays: dict[str, np.ndarray]) -> Quantizer:
    from llmrec.indexing.rq_vae import Encoder

    return Encoder.of(arrays)


_FIT: dict[str, Callable[[Indexing, np.ndarray, int], Fitted]] = {
    "rq-kmeans": _rq_kmeans,
    "balanced-rq-kmeans": _balanced,
    "rq-vae": _rq_vae,
    "kmeans-tree": _tree,
    "pq": _product,
    "opq": _product,
}
_LOAD: dict[str, Callable[[dict[str, np.ndarray]], Quantizer]] = {
    "rq-kmeans": lambda arrays: Codebooks(arrays["centroids"]),
    "balanced-rq-kmeans": lambda arrays: Codebooks(arrays["centroids"]),
    "rq-vae": _load_rq_vae,
    "kmeans-tree": lambda arrays: Tree(arrays["paths"], arrays["centroids"], int(arrays["width"])),
    "pq": lambda arrays: Parts(arrays["rotation"], arrays["centroids"]),
    "opq": lambda arrays: Parts(arrays["rotation"], arrays["centroids"]),
}
_DIMENSIONS = {
    "kmeans-tree": {"paths": 2, "centroids": 2, "width": 0},
    "pq": {"rotation": 2, "centroids": 3},
    "opq": {"rotation": 2, "centroids": 3},
}  # axes of what each reads; of the others, of their codebooks
VECTOR_METHODS = tuple(_FIT)
