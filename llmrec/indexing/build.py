"""The stage `catalogue`: codes for every item, made anew or carried over from an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.files import write_json
from llmrec.indexing import pieces, quantizers, separate
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codes import Ends, RawCodes, symbols, without_suffix
from llmrec.indexing.frozen import NEAR, SETTINGS, WORDS, Frozen
from llmrec.indexing.health import health
from llmrec.indexing.kmeans import check_finite
from llmrec.indexing.methods import IndexInputs, assign_codes
from llmrec.indexing.vectors import fit_source
from llmrec.recipe import Indexing


def make(
    settings: Indexing,
    items: pa.Table,
    text: np.ndarray,
    seed: int,
    folder: Path,
    train: Sequences | None = None,
) -> dict[str, Any]:
    """Assign codes and write the catalogue folder.

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
    train = Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)) if train is None else train
    source = fit_source(settings, text, train, seed)
    vectors = source.of(text, source.behaviour)
    raw, model = _in_pieces(settings, assign_codes(settings, IndexInputs(items, text, vectors, train, seed)), train)
    codes, widths, ends = _unique(settings, raw, vectors)
    catalogue = Catalogue.of_symbols(items, codes, widths, ends)
    before = symbols(raw.codes, raw.kinds, raw.widths)
    report = health(catalogue.codes, widths, text, seed, before, items, train, settings, ends)

    write_json(folder / SETTINGS, settings.model_dump(mode="json"))  # from here on, what new items will need
    source.save(folder)
    if raw.quantizer is not None:
        quantizers.save(raw.quantizer, settings, folder)
    if raw.quantizer is None or settings.append or source.name != "text":
        np.savez(folder / NEAR, text=text, prefixes=without_suffix(catalogue.codes, widths, ends))
    if model:
        (folder / pieces.FILE).write_bytes(model)
    if raw.words:
        write_json(folder / WORDS, raw.words)
    catalogue.save(folder, report)
    return {"verdict": report["verdict"], **raw.facts}


def _in_pieces(settings: Indexing, raw: RawCodes, train: Sequences) -> tuple[RawCodes, bytes]:
    """The codes in pieces, where the recipe asks for them; as they are, otherwise."""
    if settings.bpe_vocab is None:
        return raw, b""
    table = symbols(raw.codes, raw.kinds, raw.widths)
    seen = np.bincount(train.items, minlength=len(table))
    model = pieces.fit(table, seen, sum(raw.widths), settings.bpe_vocab)
    codes, count = pieces.cut(model, table)
    return replace(raw, codes=codes, kinds=[0] * codes.shape[1], widths=[count], words={}), model


def _unique(settings: Indexing, raw: RawCodes, vectors: np.ndarray) -> tuple[np.ndarray, list[int], Ends]:
    """Symbols of every item, all different; tokens of each kind, spares included; how codes end."""
    codes, kinds, widths, ends = raw.codes, raw.kinds, raw.widths, raw.ends
    if ends == "own":
        widths = [*widths[:-1], widths[-1] + settings.reserved_tokens]
    elif ends == "separating" and settings.collisions == "extra-level":
        codes = separate.last_level(codes, raw.priority)
        kinds, widths = [*kinds, len(widths)], [*widths, int(codes[:, -1].max()) + 1 + settings.reserved_tokens]
    elif ends == "separating":
        assert raw.quantizer is not None  # the recipe refuses other methods
        move = separate.sinkhorn if settings.collisions == "sinkhorn" else separate.nearest_free
        codes, ends = move(codes, raw.priority, vectors, raw.quantizer), "moved"
    return symbols(codes, kinds, widths), widths, ends


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


def with_new_items(
    before: Catalogue, frozen: Frozen, items: pa.Table, text: np.ndarray, seed: int
) -> tuple[Catalogue, dict[str, Any]]:
    """As `extend`, for new items (in the columns of the old ones) alone: the catalogue of all, and its health."""
    every = pa.concat_tables([before.items, items])
    known = np.append(np.arange(len(before)), np.full(items.num_rows, -1))
    catalogue = _extended(before, frozen, every, known, text)
    report = health(catalogue.codes, before.widths, None, seed, items=every, settings=frozen.settings, ends=before.ends)
    return catalogue, report


def _extended(before: Catalogue, frozen: Frozen, items: pa.Table, known: np.ndarray, text: np.ndarray) -> Catalogue:
    """Old codes where `known` (items,) gives an old number, free ones for the others, whose vectors are `text`."""
    fresh = np.flatnonzero(known < 0)
    placed = frozen.place(before, items.take(pa.array(fresh)), text)
    codes = np.full((len(known), max(placed.shape[1], before.codes.shape[1])), -1, np.int32)
    codes[known >= 0, : before.codes.shape[1]] = before.codes[known[known >= 0]]
    codes[fresh, : placed.shape[1]] = placed
    codes = codes[:, : int((codes >= 0).sum(axis=1).max())]
    return Catalogue.of_symbols(items, codes, before.widths, before.ends, before.lineage)
