"""Vectors to quantize: of the item text, of a collaborative model, or both combined (`indexing.fusion`).

An item without training events has no collaborative vector: it takes the mean of those of its nearest items by text.
New items of a catalogue do the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from llmrec.checked import read_arrays
from llmrec.contracts import Items, ItemVectors, Sequences
from llmrec.errors import CodeError
from llmrec.indexing.kmeans import kmeans, nearest
from llmrec.items.item_vectors import ppmi_vectors
from llmrec.recipe import Indexing
from llmrec.recipe.collaborative import SPECS
from llmrec.seed import stream

FILE = "vectors.npz"
NEIGHBOURS, WIDTH = 10, 64  # neighbours whose mean is imputed; dimension of a collaborative vector
# Of contrastive alignment; CLUSTERS as for the dominance in the health report.
ALIGNED_DIM, STEPS, BATCH, RATE, TEMPERATURE, KEEP, CLUSTERS = 64, 300, 512, 5e-3, 0.1, 10.0, 32
SIDES = ("text", "behaviour")
# axes of the fitted arrays of each fusion in vectors.npz
_AXES = {
    "concat": {"scale": 1},
    "weighted": {"share": 1},
    "aligned": {f"{array}_{side}": axes for side in SIDES for array, axes in (("mean", 1), ("of", 2), ("share", 0))},
}


@dataclass(frozen=True)
class VectorSource:
    """How the vectors that are quantized come from text and collaborative vectors, fitted.

    Attributes:
        fusion: `indexing.fusion`.
        collaborative: (items, dim) float32, imputed where missing; empty for text alone.
        maps: fitted arrays of the fusion.
    """

    fusion: str
    collaborative: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    def combine(self, text: np.ndarray, collaborative: np.ndarray) -> np.ndarray:
        """(items, dim) float32 vectors to quantize, from (items, …) text and collaborative vectors.

        Concatenated, each number has variance 1, so the longer part dominates (PRORec, arXiv 2502.06269, shows that the
        text does); weighted, each part has length 1 times its weight; aligned, see `fit_alignment`.
        """
        if self.fusion == "text":
            return text
        if self.fusion == "concat":
            return np.hstack([text / self.maps["scale"][0], collaborative / self.maps["scale"][1]])
        if self.fusion == "weighted":
            weight = self.maps["share"][0]
            return np.hstack([normalize(text) * np.sqrt(1 - weight), normalize(collaborative) * np.sqrt(weight)])
        return aligned(text, collaborative, self.maps) if self.fusion == "aligned" else normalize(collaborative)

    def of_new_items(self, text: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(new, dim) float32 vectors to quantize, from (new, dim) text vectors and (items, dim) known ones."""
        if self.fusion == "text":
            return text
        return self.combine(text, impute_from_neighbours(text, known, self.collaborative))

    def save(self, folder: Path) -> None:
        """Write `vectors.npz`; nothing for text alone."""
        if self.fusion != "text":
            np.savez(folder / FILE, behaviour=self.collaborative, **self.maps)  # type: ignore[arg-type]

    @classmethod
    def load(cls, fusion: str, folder: Path) -> VectorSource:
        """Read what `save` wrote.

        Raises:
            CodeError: it is missing or damaged.
        """
        if fusion == "text":
            return cls(fusion)
        remedy = "Copy the folder again, or run the recipe again."
        maps = read_arrays(folder / FILE, {"behaviour": 2} | _AXES.get(fusion, {}), remedy, CodeError)
        return cls(fusion, maps.pop("behaviour"), maps)


def fit_source(settings: Indexing, text: np.ndarray, train: Sequences, seed: int) -> VectorSource:
    """Fit `indexing.fusion` on (items, dim) float32 unit text vectors and the training histories.

    Raises:
        CodeError: collaborative vectors are needed, and there is no training event.
    """
    fusion = settings.fusion
    if fusion == "text":
        return VectorSource(fusion)
    if not len(train.items):
        raise CodeError(
            f"indexing.fusion: {fusion} is learnt from training events, and there are none. Set it to text."
        )
    name = "ppmi" if fusion == "ppmi" else settings.collaborative_model
    vectors = _collaborative_vectors(name, train, len(text), seed)
    has_interactions = (np.bincount(train.items, minlength=len(text)) > 0) & (np.square(vectors).sum(axis=1) > 0)
    if not has_interactions.any():
        raise CodeError(
            f"indexing.collaborative_model: {name} learnt no vector from the training events. Choose another."
        )
    vectors[~has_interactions] = impute_from_neighbours(
        text[~has_interactions], text[has_interactions], vectors[has_interactions]
    )
    maps = {}
    if fusion == "concat":
        maps["scale"] = np.array([_rms(text), _rms(vectors)], np.float32)
    elif fusion == "weighted":
        maps["share"] = np.array([settings.fusion_weight], np.float32)
    elif fusion == "aligned":
        maps = fit_alignment(text, vectors, has_interactions, seed)
    return VectorSource(fusion, vectors, maps)


def _collaborative_vectors(name: str, train: Sequences, n_items: int, seed: int) -> np.ndarray:
    """(items, dim) float32 item vectors of a collaborative model fitted on the training histories."""
    if name == "ppmi":
        return np.array(ppmi_vectors(train, n_items, WIDTH, seed), np.float32)
    from llmrec.collaborative import fit_one

    spec = SPECS[name].model_validate({"width": WIDTH, "seed": seed})
    model = fit_one(spec, train, Items.numbered(n_items))
    assert isinstance(model, ItemVectors)
    return np.array(model.item_vectors(), np.float32)


def impute_from_neighbours(text: np.ndarray, known: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(new, width) mean of (items, width) vectors over the nearest items by (new, dim) and (items, dim) text."""
    result = np.zeros((len(text), vectors.shape[1]), np.float32)
    count = min(NEIGHBOURS, len(known))
    for start in range(0, len(text), 1024):
        near = np.argpartition(-(text[start : start + 1024] @ known.T), count - 1, axis=1)[:, :count]
        result[start : start + 1024] = vectors[near].mean(axis=1)
    return result


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; zero rows stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _rms(vectors: np.ndarray) -> float:
    return max(1e-12, float(np.sqrt(np.square(vectors - vectors.mean(axis=0)).mean())))


def fit_alignment(
    text: np.ndarray, collaborative: np.ndarray, has_interactions: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Learn linear maps under which the text and the collaborative vector of an item are close, and their weights.

    Each side is weighted by the inverse of what its own clusters explain, so that neither dominates the codes.

    Args:
        text: (items, dim) float32.
        collaborative: (items, width) float32.
        has_interactions: (items,) bool, False where the collaborative vector is imputed.
        seed: of the start, the batches and the clusters.

    Returns:
        `mean_text` (dim,), `of_text` (dim, ALIGNED_DIM), `share_text` (), and the same of `behaviour`, float32.

    Source: PRORec / UNGER (arXiv 2502.06269), stage one: InfoNCE between the two sides over the items of a batch. There
    it is trained together with next-item prediction, which keeps the collaborative information. Here the collaborative
    vectors are given, and the maps must also reconstruct both sides (a tied linear auto-encoder each, weight KEEP):
    otherwise they identify single items by their noise and lose the groups that items share.
    """
    sides = (text, collaborative)
    means = [side[has_interactions].mean(axis=0).astype(np.float32) for side in sides]
    centred = [np.ascontiguousarray(s[has_interactions] - m, np.float32) for s, m in zip(sides, means, strict=True)]
    fitted: dict[str, np.ndarray] = {}
    for name, mean, side, matrix in zip(SIDES, means, centred, _fit_maps(centred, seed), strict=True):
        weight = np.float32(1 / np.sqrt(_explained(normalize(side @ matrix), seed)))
        fitted |= {f"mean_{name}": mean, f"of_{name}": matrix, f"share_{name}": np.array(weight)}
    return fitted


def aligned(text: np.ndarray, collaborative: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """(items, 2 * ALIGNED_DIM) float32 both sides mapped and weighted, from (items, …) vectors of both."""
    sides = [
        normalize((side - maps[f"mean_{name}"]) @ maps[f"of_{name}"]) * maps[f"share_{name}"]
        for name, side in zip(SIDES, (text, collaborative), strict=True)
    ]
    return np.hstack(sides).astype(np.float32)


def info_nce(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of two (items, dim) sets of unit vectors, in nats; equal rows belong together."""
    scores, labels = one @ other.T / TEMPERATURE, torch.arange(len(one))
    return (functional.cross_entropy(scores, labels) + functional.cross_entropy(scores.T, labels)) / 2


def _fit_maps(centred: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """(dim, ALIGNED_DIM) float32 map of each side, from (items, dim) sides whose mean is zero."""
    rng, sides = stream(seed, "align"), [torch.from_numpy(side) for side in centred]
    starts = [rng.normal(0, side.shape[1] ** -0.5, (side.shape[1], ALIGNED_DIM)).astype(np.float32) for side in sides]
    maps = [torch.nn.Parameter(torch.from_numpy(start)) for start in starts]
    optimizer = torch.optim.Adam(maps, lr=RATE)
    for _ in range(STEPS):
        batch = torch.from_numpy(rng.choice(len(sides[0]), min(BATCH, len(sides[0])), replace=False))
        rows = [side[batch] for side in sides]
        mapped = [side @ matrix for side, matrix in zip(rows, maps, strict=True)]
        loss = info_nce(*(functional.normalize(side, dim=1) for side in mapped))
        for side, low, matrix in zip(rows, mapped, maps, strict=True):
            loss = loss + KEEP * (side - low @ matrix.T).square().sum() / side.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [matrix.detach().numpy() for matrix in maps]


def _explained(vectors: np.ndarray, seed: int) -> float:
    """Variance of (items, dim) vectors that k-means clusters explain."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    centroids = kmeans(vectors, min(CLUSTERS, max(1, len(vectors) // 2)), seed % 2**31, init="k-means++")
    rest = np.square(vectors - centroids[nearest(vectors, centroids)]).sum(axis=1).mean()
    return max(1e-6, float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean() - rest))
