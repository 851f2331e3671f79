"""What the figures of codes mean, in words, each with a remedy that the method has."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2
from typing import Any

from llmrec.indexing.quantizers import VECTOR_METHODS
from llmrec.recipe import Indexing

_UNEVEN, _SHARED, _ALIKE, _FAITHLESS, _DOMINATED = 0.5, 0.5, 0.05, 0.1, 0.3  # shares, and a difference of two NMI
_WIDEN = "add a level or widen them (indexing.levels, indexing.width)"
_REMEDIES = {
    "collaborative": "a smaller indexing.width splits clusters further",
    "category": "set indexing.hybrid=[collaborative], or [item]",
    "title": "set indexing.hybrid=[item]",
}


def verdict(result: dict[str, Any], settings: Indexing) -> list[str]:
    """A sentence on the whole, then one for each thing that is wrong.

    Args:
        result: of `health`.
        settings: that the codes were made by.
    """
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
        if settings.pieces and used < _UNEVEN * width:
            yield f"Codes use {used} of {width} pieces: set indexing.pieces lower."
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
    of_text = quantized and settings.vectors not in ("teacher", "ppmi")
    if of_text and kept is not None and kept < _FAITHLESS:
        yield f"Only {kept:.0%} of nearest items share a first token: codes carry little of the text."
    dominance = result.get("dominance")
    if quantized and dominance is not None and abs(dominance) > _DOMINATED:
        strong, weak = ("text", "behaviour") if dominance > 0 else ("behaviour", "text")
        remedy = {
            "aligned": "widen the first level (indexing.width)",
            "weighted": "see whether indexing.vectors=aligned is better on validation",
        }.get(settings.vectors, "indexing.vectors=weighted or aligned gives both a say")
        yield f"First tokens follow {strong} far more than {weak} (dominance {dominance:+.2f}): {remedy}."


def _deciding(settings: Indexing) -> str:
    """The method whose codes tell items apart last, but for tokens of their own."""
    return [name for name in (settings.method, *settings.hybrid) if name != "item" or not settings.hybrid][-1]
