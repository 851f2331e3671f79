"""The stage `catalogue`: codes for every item, made anew or carried over from an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.errors import CodeError
from llmrec.files import write_json
from llmrec.indexing import methods, pieces, quantizers, separate, vectors
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codes import Drawn, Ends, Quantizer, symbols
from llmrec.indexing.distances import check_finite
from llmrec.indexing.frozen import NEAR, SETTINGS, WORDS, Frozen
from llmrec.indexing.health import health
from llmrec.indexing.methods import Material
from llmrec.indexing.quantizers import BOOKS
from llmrec.recipe import Indexing

__all__ = ["BOOKS", "extend", "make"]
NOBODY = Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32))


def make(
    settings: Indexing,
    items: pa.Table,
    text: np.ndarray,
    seed: int,
    folder: Path,
    train: Sequences | None = None,
) -> dict[str, Any]:
    """Draw codes and write the catalogue folder.

    Args:
        settings: which method, of what, how wide.
        items: the items table.
        text: (items, dim) float32 unit vectors of the items' text.
        seed: of everything drawn.
        folder: to write into.
        train: the training part of every history; only methods of behaviour and the health report look at it.

    Returns:
        Facts for made.json.

    Raises:
        CodeError: vectors that no distance can be measured from, fewer items than codes of a level, and what methods
            refuse.
    """
    check_finite(text, items["item_id"])
    train = NOBODY if train is None else train
    where = vectors.source(settings, text, train, seed)
    material = Material(items, text, where.of(text, where.behaviour), train, seed)
    drawn = methods.draw(settings, material)
    cut, model = _in_pieces(settings, drawn, train)
    codes, widths, ends = _unique(settings, cut, material.vectors, drawn.quantizer)
    catalogue = Catalogue.of_symbols(items, codes, widths, ends)
    before = symbols(cut.codes, cut.kinds, cut.widths)
    report = health(catalogue.codes, widths, text, seed, before, items, train, settings, ends)
    _keep(settings, drawn, where, text, _before(catalogue), model, folder)
    catalogue.save(folder, report)
    return {"verdict": report["verdict"], **drawn.facts}


def extend(old: Path, items: pa.Table, text: np.ndarray, seed: int, folder: Path) -> dict[str, Any]:
    """Write a catalogue folder in which every item of an earlier catalogue keeps its code, and new items get free ones.

    The quantizer stays frozen, and so does the list of tokens: new items use spare tokens. A code that an absent item
    had is not given to another.

    Args:
        old: the earlier catalogue folder.
        items, text: of the new catalogue, from the same encoder.
        seed: of the health report's sample.
        folder: to write into.

    Returns:
        Facts for made.json, with how many codes were kept and how many are new.

    Raises:
        CodeError: vectors of another encoder, or no spare token left for a new item.
    """
    before, frozen = Catalogue.load(old), Frozen.load(old)
    known = before.numbers(items["item_id"])
    catalogue = _extended(before, frozen, items, known, text[known < 0])
    report = health(catalogue.codes, before.widths, text, seed, items=items, settings=frozen.settings, ends=before.ends)
    frozen.copy(folder)
    catalogue.save(folder, report)
    facts = {"codes kept": int((known >= 0).sum()), "new codes": int((known < 0).sum())}
    return {"verdict": report["verdict"], **facts}


def added(old: Path, items: pa.Table, text: np.ndarray, seed: int) -> tuple[Catalogue, dict[str, Any], Frozen]:
    """As `extend`, for new items alone; the old ones stay, in their order.

    Args:
        old: the earlier catalogue folder.
        items: the new ones, in the columns of the old ones.
        text: (new, dim) float32 unit vectors of their text, from the same encoder.
        seed: of the health report.

    Returns:
        The catalogue of old and new items, its health, and what its folder must keep.

    Raises:
        CodeError: vectors of another encoder, or no spare token left for a new item.
    """
    before, frozen = Catalogue.load(old), Frozen.load(old)
    every = pa.concat_tables([before.items, items])
    known = np.append(np.arange(len(before)), np.full(items.num_rows, -1))
    catalogue = _extended(before, frozen, every, known, text)
    report = health(catalogue.codes, before.widths, None, seed, items=every, settings=frozen.settings, ends=before.ends)
    return catalogue, report, frozen


def _extended(before: Catalogue, frozen: Frozen, items: pa.Table, known: np.ndarray, text: np.ndarray) -> Catalogue:
    """Old codes where `known` (items,) gives an old number, free ones for the others, whose vectors are `text`."""
    fresh = np.flatnonzero(known < 0)
    found = frozen.place(before, items.take(pa.array(fresh)), text)
    codes = np.full((len(known), max(found.shape[1], before.codes.shape[1])), -1, np.int32)
    codes[known >= 0, : before.codes.shape[1]] = before.codes[known[known >= 0]]
    codes[fresh, : found.shape[1]] = found
    codes = codes[:, : int((codes >= 0).sum(axis=1).max())]
    return Catalogue.of_symbols(items, codes, before.widths, before.ends, before.lineage)


def _before(catalogue: Catalogue) -> np.ndarray:
    """(items, longest) int32 codes without what tells twins apart."""
    if catalogue.ends in ("moved", "numbers"):
        return catalogue.codes
    return np.where(catalogue.codes < catalogue.first_of_last, catalogue.codes, -1)


def _in_pieces(settings: Indexing, drawn: Drawn, train: Sequences) -> tuple[Drawn, bytes]:
    """The codes in pieces, where the recipe asks for them; as they are, otherwise."""
    if settings.pieces is None:
        return drawn, b""
    table = symbols(drawn.codes, drawn.kinds, drawn.widths)
    seen = np.bincount(train.items, minlength=len(table))
    model = pieces.fit(table, seen, sum(drawn.widths), settings.pieces)
    codes, count = pieces.cut(model, table)
    return replace(drawn, codes=codes, kinds=[0] * codes.shape[1], widths=[count], words={}), model


def _unique(
    settings: Indexing, drawn: Drawn, of: np.ndarray, quantizer: Quantizer | None
) -> tuple[np.ndarray, list[int], Ends]:
    """Symbols of every item, all different; tokens of each kind, spares included; how codes end."""
    codes, kinds, widths, ends = drawn.codes, drawn.kinds, drawn.widths, drawn.unique
    if ends == "own":
        widths = [*widths[:-1], widths[-1] + settings.spares]
    elif ends == "separating" and settings.separate == "last-level":
        codes = separate.last_level(codes, drawn.rank)
        kinds, widths = [*kinds, len(widths)], [*widths, int(codes[:, -1].max()) + 1 + settings.spares]
    elif ends == "separating":
        if quantizer is None:
            raise CodeError(
                f"indexing.separate: {settings.separate} moves items between codes of a quantizer, and the method "
                f"{settings.method} has none. Set it to last-level."
            )
        codes, ends = _SEPARATE[settings.separate](codes, drawn.rank, of, quantizer), "moved"
    return symbols(codes, kinds, widths), widths, ends


def _keep(
    settings: Indexing,
    drawn: Drawn,
    where: vectors.Source,
    text: np.ndarray,
    prefixes: np.ndarray,
    model: bytes,
    folder: Path,
) -> None:
    """Write what new items will need."""
    write_json(folder / SETTINGS, settings.model_dump(mode="json"))
    if drawn.quantizer is not None:
        quantizers.save(drawn.quantizer, settings, folder)
    where.save(folder)
    if drawn.quantizer is None or settings.hybrid or where.name != "text":
        np.savez(folder / NEAR, text=text, prefixes=prefixes)
    if model:
        (folder / pieces.FILE).write_bytes(model)
    if drawn.words:
        write_json(folder / WORDS, drawn.words)


_SEPARATE = {"sinkhorn": separate.sinkhorn, "nearest-free": separate.nearest_free}
