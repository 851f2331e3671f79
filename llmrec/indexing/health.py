"""Health of codes: numbers first, then a verdict in words, before anybody pays for training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.indexing import agreement
from llmrec.indexing.codes import Ends, groups


def health(
    codes: np.ndarray,
    widths: list[int],
    vectors: np.ndarray | None,
    seed: int,
    before: np.ndarray | None = None,
    items: pa.Table | None = None,
    train: Sequences | None = None,
    category: str = "category",
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
        category: the column of categories.
        ends: how codes end, see `Catalogue`.

    Returns:
        JSON-ready: levels (use, entropy in bits, counts), collisions before and after separating, how many moved,
        neighbours kept, lengths in tokens, agreement (NMI) of prefixes with categories and with co-occurrence,
        dominance of text over behaviour, verdict.
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
            _level(number + 1, codes[(codes >= first) & (codes < stop)] - first, int(stop - first), len(codes))
            for number, (first, stop) in enumerate(pairwise(starts))
        ],
        "collisions_before": int((size[group] > 1).sum()),
        "collisions_after": len(codes) - len(np.unique(codes, axis=0)),
        "moved": int(moved.sum()),
        "largest_group": int(size.max()),
        "unique": len(np.unique(codes, axis=0)) == len(codes),
        "neighbours_kept": None if vectors is None else _neighbours_kept(codes, vectors, seed),
        "tokens": {"least": int(lengths.min()), "mean": round(float(lengths.mean()), 3), "most": int(lengths.max())},
        "ends": ends,
    }
    result |= agreement.measure(codes, vectors, seed, items, train, category)
    return result | {"verdict": verdict(result)}


def verdict(result: dict[str, Any]) -> list[str]:
    """What the numbers mean, a sentence each, with a remedy where something is wrong."""
    words, ends = [], result.get("ends", "separating")
    for level in result["levels"][: None if ends == "moved" else -1]:
        used, width = level["used"], level["width"]
        if used == 1 < width and ends != "numbers":
            words.append(
                f"Level {level['level']} uses 1 of {width} codes, so it tells nothing apart: set indexing.levels lower."
            )
        elif used < width / 2 and ends != "numbers":
            words.append(
                f"Level {level['level']} uses {used} of {width} codes: set indexing.width nearer to {used}, or try "
                "indexing.method=balanced-rq-kmeans."
            )
    share = result["collisions_before"] / result["items"]
    if share > 0.5:
        words.append(f"{share:.0%} of items shared a code before separating: add a level or widen them.")
    if not result["unique"]:
        words.append("Codes are not unique: this is a bug.")
    kept = result["neighbours_kept"]
    if kept is not None and kept < 0.1 and ends in ("separating", "moved"):
        words.append(f"Only {kept:.0%} of nearest items share a first token: codes carry little of the text.")
    dominance = result.get("dominance")
    if dominance is not None and abs(dominance) > 0.3:
        strong, weak = ("text", "behaviour") if dominance > 0 else ("behaviour", "text")
        words.append(
            f"First tokens follow {strong} far more than {weak} (dominance {dominance:+.2f}): "
            "indexing.vectors=weighted or aligned gives both a say."
        )
    healthy = not words
    summary = (
        f"{result['items']} items have unique codes; {result['collisions_before']} shared one before "
        + ("twins were moved" if ends == "moved" else "the separating level")
        + f", at most {result['largest_group']} together"
        + (f"; {kept:.0%} of nearest items share their first token." if kept is not None else ".")
    )
    return [("Healthy. " if healthy else "") + summary, *words]


def _level(number: int, column: np.ndarray, width: int, items: int) -> dict[str, Any]:
    counts = np.bincount(column, minlength=width)
    share = counts[counts > 0] / max(counts.sum(), 1)
    entropy = float(-(share * np.log2(share)).sum()) if len(share) else 0.0
    return {
        "level": number,
        "width": width,
        "used": int((counts > 0).sum()),
        "entropy_bits": round(entropy, 4),
        "counts": counts.tolist(),
    }


def _neighbours_kept(codes: np.ndarray, vectors: np.ndarray, seed: int, sample: int = 1000) -> float:
    """Share of a sampled item's ten nearest items (cosine) that have its first token."""
    rows = np.random.default_rng(seed).permutation(len(codes))[:sample]
    near = vectors[rows] @ vectors.T
    near[np.arange(len(rows)), rows] = -np.inf
    k = min(10, len(codes) - 1)
    if k < 1:
        return 1.0
    nearest = np.argpartition(-near, k - 1, axis=1)[:, :k]
    return round(float((codes[nearest, 0] == codes[rows, 0][:, None]).mean()), 4)
