"""The stage `catalogue`: assign a code to every item and write the catalogue folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.files import write_json
from llmrec.indexing import bpe, collisions, quantizers
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codes import RawCodes, Suffix, to_symbols, without_suffix
from llmrec.indexing.health import measure_health
from llmrec.indexing.kmeans import check_finite
from llmrec.indexing.methods import IndexInputs, assign_codes
from llmrec.indexing.new_items import NEAREST, SETTINGS, WORDS
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
        text: (items, dim) float32 unit text vectors.
        train: training histories; only collaborative methods and the health report use them.

    Returns:
        Facts for made.json.

    Raises:
        CodeError: vectors that are zero or not finite, fewer items than codes of a level, or an error of a method.
    """
    check_finite(text, items["item_id"])
    train = Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)) if train is None else train
    source = fit_source(settings, text, train, seed)
    vectors = source.combine(text, source.collaborative)
    raw = assign_codes(settings, IndexInputs(items, text, vectors, train, seed))
    raw, bpe_model = _with_bpe(settings, raw, train)
    codes, widths, suffix = _resolve_collisions(settings, raw, vectors)
    catalogue = Catalogue.of_symbols(items, codes, widths, suffix)
    report = measure_health(catalogue.codes, widths, text, seed, raw.symbols(), items, train, settings, suffix)

    write_json(folder / SETTINGS, settings.model_dump(mode="json"))  # this and the next files are for new items
    source.save(folder)
    if raw.quantizer is not None:
        quantizers.save(raw.quantizer, settings, folder)
    if raw.quantizer is None or settings.append or source.fusion != "text":
        np.savez(folder / NEAREST, text=text, prefixes=without_suffix(catalogue.codes, widths, suffix))
    if bpe_model:
        (folder / bpe.FILE).write_bytes(bpe_model)
    if raw.words:
        write_json(folder / WORDS, raw.words)
    catalogue.save(folder, report)
    return {"verdict": report["verdict"], **raw.facts}


def _with_bpe(settings: Indexing, raw: RawCodes, train: Sequences) -> tuple[RawCodes, bytes]:
    """The codes encoded by BPE, and its model; unchanged and empty without `indexing.bpe_vocab`."""
    if settings.bpe_vocab is None:
        return raw, b""
    table = raw.symbols()
    counts = np.bincount(train.items, minlength=len(table))
    model = bpe.fit(table, counts, sum(raw.widths), settings.bpe_vocab)
    codes, pieces = bpe.encode(model, table)
    return replace(raw, codes=codes, token_groups=[0] * codes.shape[1], widths=[pieces], words={}), model


def _resolve_collisions(settings: Indexing, raw: RawCodes, vectors: np.ndarray) -> tuple[np.ndarray, list[int], Suffix]:
    """Unique symbols of every item; tokens of each group, reserved ones included; the suffix of the codes."""
    codes, groups, widths, suffix = raw.codes, raw.token_groups, raw.widths, raw.suffix
    if suffix == "per-item":
        widths = [*widths[:-1], widths[-1] + settings.reserved_tokens]
    elif suffix == "dedup" and settings.collisions == "extra-level":
        codes = collisions.add_level(codes, raw.priority)
        groups = [*groups, len(widths)]
        widths = [*widths, int(codes[:, -1].max()) + 1 + settings.reserved_tokens]
    elif suffix == "dedup":
        assert raw.quantizer is not None  # the recipe refuses other methods
        resolve = collisions.sinkhorn if settings.collisions == "sinkhorn" else collisions.reassign
        codes, suffix = resolve(codes, raw.priority, vectors, raw.quantizer), "reassigned"
    return to_symbols(codes, groups, widths), widths, suffix
