"""Health of codes in numbers, before anybody pays for training; `verdict.py` says what they mean."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.contracts import Sequences
from llmrec.indexing import agreement
from llmrec.indexing.codes import Ends, groups
from llmrec.indexing.verdict import verdict
from llmrec.recipe import Indexing

DEFAULT = Indexing()
_OPEN = ConfigDict(extra="allow")  # further keys are shown to people at most
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
    found: Health = read_checked(catalogue / "health.json", Health)
    return found


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
        before: (items, longest) int32 symbols before twins were told apart; None: all but the last kind.
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
        before = codes if ends in ("moved", "numbers") else np.where(codes < starts[-2], codes, -1)
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
    result |= agreement.measure(codes, vectors, seed, items, train, settings.category)
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
