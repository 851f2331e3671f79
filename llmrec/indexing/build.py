"""The stage `catalogue`: codes for every item, made anew or carried over from an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.errors import CodeError
from llmrec.indexing import rq_kmeans, separate
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.health import health
from llmrec.indexing.rq_kmeans import Codebooks
from llmrec.recipe import Indexing

BOOKS = "codebooks.npy"


def make(settings: Indexing, items: pa.Table, vectors: np.ndarray, seed: int, folder: Path) -> dict[str, Any]:
    """Fit codebooks and write the catalogue folder.

    Args:
        settings: levels, width, spares.
        items: the items table.
        vectors: (items, dim) float32.
        seed: of the k-means.
        folder: to write into.

    Returns:
        Facts for made.json.

    Raises:
        CodeError: fewer items than codes of a level.
    """
    books = rq_kmeans.fit(vectors, settings.levels, settings.width, seed)
    codes, residual = books.encode(vectors)
    codes = separate.last_level(codes, np.linalg.norm(residual, axis=1))
    widths = [settings.width] * settings.levels + [int(codes[:, -1].max()) + 1 + settings.spares]
    return _write(Catalogue.of(items, codes, widths), codes, widths, vectors, seed, books, folder)


def extend(old: Path, items: pa.Table, vectors: np.ndarray, seed: int, folder: Path) -> dict[str, Any]:
    """Write a catalogue folder in which every item of an earlier catalogue keeps its code, and new items get free ones.

    The codebooks stay frozen, and so does the list of tokens: new items that land on a taken prefix use spare tokens
    of the separating level. A code that an absent item had is not given to another.

    Args:
        old: the earlier catalogue folder.
        items, vectors: of the new catalogue, from the same encoder.
        seed: of the health report's sample.
        folder: to write into.

    Returns:
        Facts for made.json, with how many codes were kept and how many are new.

    Raises:
        CodeError: vectors of another encoder, or no spare token left for a new item.
    """
    before, books = Catalogue.load(old), Codebooks(np.load(old / BOOKS))
    prefixes, residual = books.encode(vectors)
    known = np.array([before.item_number.get(item_id, -1) for item_id in items["item_id"].to_pylist()])
    codes = np.zeros((len(known), before.codes.shape[1]), np.int32)
    starts = np.concatenate([[0], np.cumsum(before.widths)[:-1]])
    codes[known >= 0] = (before.codes - starts)[known[known >= 0]]
    fresh = np.flatnonzero(known < 0)
    codes[fresh] = _place(prefixes[fresh], before.codes - starts, before.widths[-1], residual[fresh])
    facts = _write(Catalogue.of(items, codes, before.widths), codes, before.widths, vectors, seed, books, folder)
    return facts | {"codes kept": int((known >= 0).sum()), "new codes": len(fresh)}


def _place(prefixes: np.ndarray, taken: np.ndarray, width: int, residual: np.ndarray) -> np.ndarray:
    """Number new items after the highest number that their prefix has had."""
    numbered = separate.last_level(prefixes, np.linalg.norm(residual, axis=1))
    highest: dict[tuple[int, ...], int] = {}
    for *prefix, number in taken.tolist():
        highest[tuple(prefix)] = max(highest.get(tuple(prefix), -1), number)
    offset = np.array([highest.get(tuple(prefix), -1) + 1 for prefix in prefixes.tolist()], np.int32)
    numbered[:, -1] += offset.reshape(len(numbered))
    if (numbered[:, -1] >= width).any():
        short = int((numbered[:, -1] >= width).sum())
        raise CodeError(
            f"{short} new item(s) find no spare token on the separating level, which has {width}. "
            "Train anew, with a larger indexing.spares."
        )
    return numbered


def _write(
    catalogue: Catalogue,
    codes: np.ndarray,
    widths: list[int],
    vectors: np.ndarray,
    seed: int,
    books: Codebooks,
    folder: Path,
) -> dict[str, Any]:
    report = health(codes, widths, vectors, seed)
    np.save(folder / BOOKS, books.centroids)
    catalogue.save(folder, report)
    return {"verdict": report["verdict"]}
