"""Health of codes before money goes into training: numbers, and what they mean, in words with remedies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.indexing import agreement
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codes import Ends, groups, without_suffix
from llmrec.indexing.ids import flat
from llmrec.indexing.quantizers import VECTOR_METHODS
from llmrec.items import read_vectors
from llmrec.recipe import Indexing

DEFAULT = Indexing()
_OPEN = ConfigDict(extra="allow")  # further keys are shown to people at most
_UNEVEN, _SHARED, _ALIKE, _FAITHLESS, _DOMINATED = 0.5, 0.5, 0.05, 0.1, 0.3  # shares, and a difference of two NMI
_WIDEN = "add a level or widen them (indexing.levels, indexing.width)"
_REMEDIES = {
    "collaborative": "a smaller indexing.width splits clusters further",
    "category": "set indexing.append=[collaborative], or [item]",
    "title": "set indexing.append=[item]",
}
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Level(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    level: int
    width: Annotated[int, Field(ge=1)]
    used: int
    entropy_bits: _Number
    counts: NotRequired[list[int]]


class Health(TypedDict, total=False):
    """health.json of a catalogue: use of each code level, agreement with categories and behaviour, a verdict."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    levels: list[_Level]
    tokens: dict[str, int | _Number]
    category_nmi: list[_Number]
    company_nmi: list[_Number]
    verdict: list[str]
    collisions_before: int
    moved: int
    largest_group: int


def read_health(catalogue: Path) -> Health:
    """health.json of a catalogue folder.

    Raises:
        RunError: it is missing or damaged.
    """
    report: Health = read_checked(catalogue / "health.json", Health)
    return report


def health(
    codes: np.ndarray,
    widths: list[int],
    vectors: np.ndarray | None,
    seed: int,
    before: np.ndarray | None = None,
    items: pa.Table | None = None,
    train: Sequences | None = None,
    settings: Indexing = DEFAULT,
    ends: Ends = "separating",
) -> dict[str, Any]:
    """Measure codes.

    Args:
        codes: (items, longest) int32 symbols, padded at the end by -1; unique rows.
        widths: tokens of each kind; the symbols of a kind follow those of the kind before.
        vectors: (items, dim) float32 unit vectors of the items' text; None: neighbours are not looked at.
        seed: of the sample of items whose neighbours are compared, and of the clusters that codes are compared with.
        before: (items, longest) int32 symbols before items of one code were told apart; None: all but the last kind.
        items: the items table, for agreement with categories.
        train: the training part of every history, for agreement with co-occurrence.
        settings: that the codes were made by: the column of categories, and what a verdict may advise.
        ends: how codes end, see `Catalogue`.

    Returns:
        JSON-ready: levels (use, entropy in bits, counts), collisions before and after separating, how many moved, how
        many have the vector of another, neighbours kept, lengths in tokens, agreement (NMI) of prefixes with categories
        and with co-occurrence, dominance of text over behaviour, verdict.
    """
    starts = np.concatenate([[0], np.cumsum(widths)])
    if before is None:
        before = without_suffix(codes, widths, ends)
    group, size = groups(before)
    lengths = (codes >= 0).sum(axis=1)
    last = codes[np.arange(len(codes)), lengths - 1] - starts[-2]
    width = min(before.shape[1], codes.shape[1])
    moved = last > 0 if ends == "separating" else (codes[:, :width] != before[:, :width]).any(axis=1)
    result: dict[str, Any] = {
        "items": len(codes),
        "levels": [
            _level(number + 1, codes[(codes >= first) & (codes < stop)] - first, int(stop - first))
            for number, (first, stop) in enumerate(pairwise(starts))
        ],
        "collisions_before": int((size[group] > 1).sum()),
        "collisions_after": len(codes) - len(np.unique(codes, axis=0)),
        "moved": int(moved.sum()),
        "largest_group": int(size.max()),
        "unique": len(np.unique(codes, axis=0)) == len(codes),
        "same_vector": None if vectors is None else agreement.alike(vectors),
        "neighbours_kept": None if vectors is None else _neighbours_kept(codes, vectors, seed),
        "tokens": {"least": int(lengths.min()), "mean": round(float(lengths.mean()), 3), "most": int(lengths.max())},
        "ends": ends,
    }
    result |= agreement.measure(codes, vectors, seed, items, train, settings.category_column)
    return result | {"verdict": verdict(result, settings)}


def _level(number: int, column: np.ndarray, width: int) -> dict[str, Any]:
    counts = np.bincount(column, minlength=width)
    share = counts[counts > 0] / max(counts.sum(), 1)
    entropy = abs(float((share * np.log2(share)).sum()))
    return {
        "level": number,
        "width": width,
        "used": int((counts > 0).sum()),
        "entropy_bits": round(entropy, 4),
        "counts": counts.tolist(),
    }


def _neighbours_kept(codes: np.ndarray, vectors: np.ndarray, seed: int) -> float:
    """Share of the ten nearest items (cosine) of each of 1,000 items that have its first token."""
    rows = np.random.default_rng(seed).permutation(len(codes))[:1000]
    near = vectors[rows] @ vectors.T
    near[np.arange(len(rows)), rows] = -np.inf
    k = min(10, len(codes) - 1)
    if k < 1:
        return 1.0
    nearest = np.argpartition(-near, k - 1, axis=1)[:, :k]
    return round(float((codes[nearest, 0] == codes[rows, 0][:, None]).mean()), 4)


def inspect(folder: Path, data: Path, items: Path, settings: Indexing, seed: int) -> dict[str, Any]:
    """Health of a catalogue, measured anew with data and item vectors of its run; what `llmrec index show` prints.

    Returns:
        The health report; method, hash and a few codes with their titles.

    Raises:
        RunError: data, vectors or the report of the catalogue are damaged.
        CodeError: it is no catalogue folder, or damaged.
    """
    catalogue, dataset = Catalogue.load(folder), Dataset.load(data, texts=False)
    # a catalogue with added items: the run has no vectors and events of these
    same = catalogue.ids.equals(flat(dataset.items["item_id"]))
    stored = read_health(folder)
    report = health(
        catalogue.codes,
        catalogue.widths,
        read_vectors(items, dataset.n_items) if same else None,
        seed,
        items=catalogue.items,
        train=dataset.before("valid") if same else None,
        settings=settings,
        ends=catalogue.ends,
    )
    for name in ("collisions_before", "moved", "largest_group"):  # seen only while codes were made
        report[name] = stored.get(name, report[name])
    report["verdict"] = verdict(report, settings)
    few = np.argsort(catalogue.codes[:, 0], kind="stable")[:5]
    examples = [
        list(pair) for pair in zip(catalogue.titles_of(few), catalogue.codes_as_text(few).to_pylist(), strict=True)
    ]
    return {"method": settings.method, "hash": catalogue.hash, "examples": examples, **report}


def verdict(result: dict[str, Any], settings: Indexing) -> list[str]:
    """What a result of `health` means: a sentence on the whole, then one for each thing that is wrong."""
    words = [*_levels(result, settings), *_twins(result, settings), *_meaning(result, settings)]
    return [("" if words else "Healthy. ") + _summary(result), *words]


def _summary(result: dict[str, Any]) -> str:
    ends, kept = result["ends"], result["neighbours_kept"]
    shared, most = result["collisions_before"], result["largest_group"]
    told = {
        "own": "each ends with a token of its own",
        "numbers": "each is a number of its own",
        "moved": f"{shared} shared one before twins were moved, at most {most} together",
        "separating": f"{shared} shared one before the separating level, at most {most} together",
    }[ends]
    neighbours = f"; {kept:.0%} of nearest items share their first token" if kept is not None else ""
    return f"{result['items']} items have unique codes; {told}{neighbours}."


def _levels(result: dict[str, Any], settings: Indexing) -> Iterator[str]:
    """Levels with tokens that hardly any code uses. Words and numbers have no such levels."""
    if result["ends"] == "numbers":
        return
    for level in result["levels"][: None if result["ends"] == "moved" else -1]:
        number, used, width = level["level"], level["used"], level["width"]
        uneven = _deciding(settings) in ("rq-kmeans", "rq-vae", "pq", "opq")
        if settings.bpe_vocab and used < _UNEVEN * width:
            yield f"Codes use {used} of {width} pieces: set indexing.bpe_vocab lower."
        elif used == 1 < width:
            yield f"Level {number} uses 1 of {width} codes, so it tells nothing apart: set indexing.levels lower."
        elif used < _UNEVEN * width:
            other = ", or try indexing.method=balanced-rq-kmeans" if uneven else ""
            yield f"Level {number} uses {used} of {width} codes: set indexing.width nearer to {used}{other}."
        elif uneven and level["entropy_bits"] < _UNEVEN * log2(width):
            most, bits = max(level["counts"]), level["entropy_bits"]
            yield (
                f"Level {number} is uneven, {bits:.1f} of {log2(width):.1f} bits: {most} items have one of its codes. "
                "Try indexing.method=balanced-rq-kmeans."
            )


def _twins(result: dict[str, Any], settings: Indexing) -> Iterator[str]:
    share = result["collisions_before"] / result["items"]
    if share > _SHARED and result["ends"] in ("separating", "moved"):
        remedy = _REMEDIES.get(_deciding(settings), _WIDEN)
        yield f"{share:.0%} of items shared a code before they were told apart: {remedy}."
    alike = result.get("same_vector") or 0
    if alike > _ALIKE * result["items"]:
        yield f"{alike} items have the vector of another, so their codes say no more than that: add to items.text."
    if not result["unique"]:
        yield "Codes are not unique: this is a bug."


def _meaning(result: dict[str, Any], settings: Indexing) -> Iterator[str]:
    """What first tokens follow, where they were meant to follow something."""
    if settings.method == "item":
        yield "Codes share no token: only rows that start from vectors (model.init_tokens) tell what items share."
    elif settings.method == "number":
        yield "Numbers are random, so items that share a token have nothing else in common: a baseline."
    kept, quantized = result["neighbours_kept"], settings.method in VECTOR_METHODS
    of_text = quantized and settings.fusion not in ("collaborative", "ppmi")
    if of_text and kept is not None and kept < _FAITHLESS:
        yield f"Only {kept:.0%} of nearest items share a first token: codes carry little of the text."
    dominance = result.get("dominance")
    if quantized and dominance is not None and abs(dominance) > _DOMINATED:
        strong, weak = ("text", "behaviour") if dominance > 0 else ("behaviour", "text")
        remedy = {
            "aligned": "widen the first level (indexing.width)",
            "weighted": "see whether indexing.fusion=aligned is better on validation",
        }.get(settings.fusion, "indexing.fusion=weighted or aligned gives both a say")
        yield f"First tokens follow {strong} far more than {weak} (dominance {dominance:+.2f}): {remedy}."


def _deciding(settings: Indexing) -> str:
    """The method whose codes tell items apart last, but for tokens of their own."""
    return [name for name in (settings.method, *settings.append) if name != "item" or not settings.append][-1]
