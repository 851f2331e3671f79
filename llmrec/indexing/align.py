"""Contrastive alignment: vectors of text and of behaviour mapped to where those of one item lie near each other.

Source: PRORec / UNGER (arXiv 2502.06269), stage one: InfoNCE between the two over the items of a batch. There it is
learnt beside next-item prediction, which keeps what behaviour says. Here the teacher's vectors are ready, and two
linear maps are learnt that must also give both sides back (a tied linear auto-encoder each, weighed by KEEP): without
that, the maps tell single items apart by their noise and lose the groups that items share. Then the two are weighed:
the aim is that neither side dominates the codes, so each counts as much as what its own clusters explain.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from llmrec.indexing.distances import kmeans, nearest
from llmrec.seed import stream

WIDTH, STEPS, BATCH, RATE, TEMPERATURE, KEEP = 64, 300, 512, 5e-3, 0.1, 10.0
CLUSTERS = 32  # by which a side is weighed; as many as the health report's dominance of text looks at
SIDES = ("text", "behaviour")


def align(text: np.ndarray, behaviour: np.ndarray, met: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Learn the two maps and their weights.

    Args:
        text: (items, dim) float32.
        behaviour: (items, width) float32.
        met: (items,) bool, items whose behaviour was learnt and not lent.
        seed: of the start, the batches and the clusters.

    Returns:
        `mean_text` (dim,), `of_text` (dim, WIDTH), `share_text` (), and the same of behaviour, float32.
    """
    means = [side[met].mean(axis=0).astype(np.float32) for side in (text, behaviour)]
    given = [np.ascontiguousarray(s[met] - m, np.float32) for s, m in zip((text, behaviour), means, strict=True)]
    learnt: dict[str, np.ndarray] = {}
    for name, mean, side, of in zip(SIDES, means, given, _maps(given, seed), strict=True):
        share = np.float32(1 / np.sqrt(_explained(_unit(side @ of), seed)))
        learnt |= {f"mean_{name}": mean, f"of_{name}": of, f"share_{name}": np.array(share)}
    return learnt


def aligned(text: np.ndarray, behaviour: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """(items, 2 * WIDTH) float32 both sides mapped and weighed, from (items, …) vectors of both and what was learnt."""
    sides = [
        _unit((side - maps[f"mean_{name}"]) @ maps[f"of_{name}"]) * maps[f"share_{name}"]
        for name, side in zip(SIDES, (text, behaviour), strict=True)
    ]
    return np.hstack(sides).astype(np.float32)


def info_nce(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Both ways: each row of (items, dim) unit vectors must find its own among the other's, in nats."""
    scores, own = one @ other.T / TEMPERATURE, torch.arange(len(one))
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def _maps(given: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """(dim, WIDTH) float32 a side, of (items, dim) sides whose mean is zero."""
    draw, sides = stream(seed, "align"), [torch.from_numpy(side) for side in given]
    starts = [draw.normal(0, side.shape[1] ** -0.5, (side.shape[1], WIDTH)).astype(np.float32) for side in sides]
    maps = [torch.nn.Parameter(torch.from_numpy(start)) for start in starts]
    optimiser = torch.optim.Adam(maps, lr=RATE)
    for _ in range(STEPS):
        batch = torch.from_numpy(draw.choice(len(sides[0]), min(BATCH, len(sides[0])), replace=False))
        rows = [side[batch] for side in sides]
        low = [side @ of for side, of in zip(rows, maps, strict=True)]
        loss = info_nce(*(functional.normalize(side, dim=1) for side in low))
        for side, mapped, of in zip(rows, low, maps, strict=True):
            loss = loss + KEEP * (side - mapped @ of.T).square().sum() / side.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [of.detach().numpy() for of in maps]


def _explained(vectors: np.ndarray, seed: int) -> float:
    """Mean squared length of what clusters of (items, dim) vectors explain."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    centroids = kmeans(vectors, min(CLUSTERS, max(1, len(vectors) // 2)), seed % 2**31, apart=True)
    left = np.square(vectors - centroids[nearest(vectors, centroids)]).sum(axis=1).mean()
    return max(1e-6, float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean() - left))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
