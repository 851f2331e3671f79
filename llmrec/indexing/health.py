"""Health of codes: numbers first, then a verdict in words, before anybody pays for training."""

from __future__ import annotations

from typing import Any

import numpy as np


def health(codes: np.ndarray, widths: list[int], vectors: np.ndarray, seed: int) -> dict[str, Any]:
    """Measure codes.

    Args:
        codes: (items, levels) int32, unique rows; the last level is the separating one.
        widths: (levels,) tokens that each level has.
        vectors: (items, dim) float32, unit length: what the codes were made from.
        seed: of the sample of items whose neighbours are compared.

    Returns:
        JSON-ready: levels (use, entropy in bits, counts), collisions before separating, neighbours kept, verdict.
    """
    levels = [_level(number + 1, codes[:, number], width) for number, width in enumerate(widths)]
    _, group, size = np.unique(codes[:, :-1], axis=0, return_inverse=True, return_counts=True)
    collided = int((size[group.ravel()] > 1).sum())
    result: dict[str, Any] = {
        "items": len(codes),
        "levels": levels,
        "collisions_before": collided,
        "moved": int((codes[:, -1] > 0).sum()),
        "largest_group": int(size.max()),
        "unique": len(np.unique(codes, axis=0)) == len(codes),
        "neighbours_kept": _neighbours_kept(codes, vectors, seed),
    }
    return result | {"verdict": verdict(result)}


def verdict(result: dict[str, Any]) -> list[str]:
    """What the numbers mean, a sentence each, with a remedy where something is wrong."""
    words = []
    for level in result["levels"][:-1]:
        used, width = level["used"], level["width"]
        if used < width / 2:
            words.append(f"Level {level['level']} uses {used} of {width} codes: set indexing.width nearer to {used}.")
    share = result["collisions_before"] / result["items"]
    if share > 0.5:
        words.append(f"{share:.0%} of items shared a code before separating: add a level or widen them.")
    if not result["unique"]:
        words.append("Codes are not unique: this is a bug.")
    if result["neighbours_kept"] < 0.1:
        words.append(
            f"Only {result['neighbours_kept']:.0%} of nearest items share a first token: "
            "codes carry little of the text."
        )
    healthy = not words
    summary = (
        f"{result['items']} items have unique codes; {result['collisions_before']} shared one before the separating "
        f"level, at most {result['largest_group']} together; "
        f"{result['neighbours_kept']:.0%} of nearest items share their first token."
    )
    return [("Healthy. " if healthy else "") + summary, *words]


def _level(number: int, column: np.ndarray, width: int) -> dict[str, Any]:
    counts = np.bincount(column, minlength=width)
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
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
