"""What vector methods quantize: the text's vectors, a teacher's, co-occurrence's, or text and behaviour together.

An item without training events has no vector of behaviour: it takes the mean of those of the items nearest to it by
text. New items of a frozen catalogue do the same.
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
from llmrec.items.vectors import ppmi_vectors
from llmrec.recipe import Indexing
from llmrec.recipe.collaborative import SPECS
from llmrec.seed import stream

FILE = "vectors.npz"
NEIGHBOURS, WIDTH = 10, 64  # items whose behaviour another takes; numbers of a teacher's vector
# Of contrastive alignment, and as many clusters as the health report's dominance of text looks at.
ALIGNED, STEPS, BATCH, RATE, TEMPERATURE, KEEP, CLUSTERS = 64, 300, 512, 5e-3, 0.1, 10.0, 32
SIDES = ("text", "behaviour")
_AXES = {
    "concat": {"scale": 1},
    "weighted": {"share": 1},
    "aligned": {f"{array}_{side}": axes for side in SIDES for array, axes in (("mean", 1), ("of", 2), ("share", 0))},
}  # of what each way to put both together has learnt


@dataclass(frozen=True)
class VectorSource:
    """Where vectors come from, frozen.

    Attributes:
        name: `indexing.fusion`.
        behaviour: (items, dim) float32, with the gaps filled; empty for text alone.
        maps: what was learnt or measured to put both together.
    """

    name: str
    behaviour: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, text: np.ndarray, behaviour: np.ndarray) -> np.ndarray:
        """(items, dim) float32 to be quantized, from (items, …) vectors of text and of behaviour.

        Concatenated, each number has variance 1, so the longer part decides (PRORec, arXiv 2502.06269, shows that the
        text's does); weighted, each part has length 1 times its share; aligned, see `align`.
        """
        if self.name == "text":
            return text
        if self.name == "concat":
            return np.hstack([text / self.maps["scale"][0], behaviour / self.maps["scale"][1]])
        if self.name == "weighted":
            share = self.maps["share"][0]
            return np.hstack([unit(text) * np.sqrt(1 - share), unit(behaviour) * np.sqrt(share)])
        return aligned(text, behaviour, self.maps) if self.name == "aligned" else unit(behaviour)

    def new(self, text: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(new, dim) float32 to be quantized, from (new, dim) vectors of text and (items, dim) those of `behaviour`."""
        return text if self.name == "text" else self.of(text, _from_neighbours(text, known, self.behaviour))

    def save(self, folder: Path) -> None:
        """Write what new items need; nothing for text alone."""
        if self.name != "text":
            np.savez(folder / FILE, behaviour=self.behaviour, **self.maps)  # type: ignore[arg-type]

    @classmethod
    def load(cls, name: str, folder: Path) -> VectorSource:
        """Read what `save` wrote.

        Raises:
            CodeError: it is missing or damaged.
        """
        if name == "text":
            return cls(name)
        remedy = "Copy the folder again, or run the recipe again."
        maps = read_arrays(folder / FILE, {"behaviour": 2} | _AXES.get(name, {}), remedy, CodeError)
        return cls(name, maps.pop("behaviour"), maps)


def fit_source(settings: Indexing, text: np.ndarray, train: Sequences, seed: int) -> VectorSource:
    """Fit what `indexing.fusion` asks for, on (items, dim) float32 unit vectors of text and the training part.

    Raises:
        CodeError: vectors of behaviour are asked for, and there is no training event.
    """
    name = settings.fusion
    if name == "text":
        return VectorSource(name)
    if not len(train.items):
        raise CodeError(f"indexing.fusion: {name} is learnt from training events, and there are none. Set it to text.")
    teacher = "ppmi" if name == "ppmi" else settings.collaborative_model
    behaviour = _behaviour(teacher, train, len(text), seed)
    met = (np.bincount(train.items, minlength=len(text)) > 0) & (np.square(behaviour).sum(axis=1) > 0)
    if not met.any():
        raise CodeError(
            f"indexing.collaborative_model: {teacher} learnt no vector from the training events. Choose another."
        )
    behaviour[~met] = _from_neighbours(text[~met], text[met], behaviour[met])
    maps = {}
    if name == "concat":
        maps["scale"] = np.array([_rms(text), _rms(behaviour)], np.float32)
    elif name == "weighted":
        maps["share"] = np.array([settings.fusion_weight], np.float32)
    elif name == "aligned":
        maps = align(text, behaviour, met, seed)
    return VectorSource(name, behaviour, maps)


def _behaviour(teacher: str, train: Sequences, n_items: int, seed: int) -> np.ndarray:
    """(items, dim) float32 item vectors of a teacher fitted on the training part."""
    if teacher == "ppmi":
        return np.array(ppmi_vectors(train, n_items, WIDTH, seed), np.float32)
    from llmrec.collaborative import fit_one

    spec = SPECS[teacher].model_validate({"width": WIDTH, "seed": seed})
    model = fit_one(spec, train, Items.numbered(n_items))
    assert isinstance(model, ItemVectors)
    return np.array(model.item_vectors(), np.float32)


def _from_neighbours(text: np.ndarray, known: np.ndarray, behaviour: np.ndarray) -> np.ndarray:
    """(new, width) float32 mean vectors of behaviour of the items nearest by text.

    Args:
        text: (new, dim) float32 unit vectors.
        known: (items, dim) float32 unit vectors.
        behaviour: (items, width) float32.
    """
    result = np.zeros((len(text), behaviour.shape[1]), np.float32)
    count = min(NEIGHBOURS, len(known))
    for start in range(0, len(text), 1024):
        near = np.argpartition(-(text[start : start + 1024] @ known.T), count - 1, axis=1)[:, :count]
        result[start : start + 1024] = behaviour[near].mean(axis=1)
    return result


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _rms(vectors: np.ndarray) -> float:
    return max(1e-12, float(np.sqrt(np.square(vectors - vectors.mean(axis=0)).mean())))


def align(text: np.ndarray, behaviour: np.ndarray, met: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Learn linear maps of text and of behaviour to where those of one item lie near each other, and their weights.

    Each side weighs as much as what its own clusters explain, so that neither dominates the codes.

    Args:
        text: (items, dim) float32.
        behaviour: (items, width) float32.
        met: (items,) bool, items whose behaviour was learnt and not taken from neighbours.
        seed: of the start, the batches and the clusters.

    Returns:
        `mean_text` (dim,), `of_text` (dim, ALIGNED), `share_text` (), and the same of behaviour, float32.

    Source: PRORec / UNGER (arXiv 2502.06269), stage one: InfoNCE between the two over the items of a batch. There it is
    learnt beside next-item prediction, which keeps what behaviour says. Here the teacher's vectors are ready, and the
    maps must also give both sides back (a tied linear auto-encoder each, weighed by KEEP): without that they tell
    single items apart by their noise and lose the groups that items share.
    """
    means = [side[met].mean(axis=0).astype(np.float32) for side in (text, behaviour)]
    centred = [np.ascontiguousarray(s[met] - m, np.float32) for s, m in zip((text, behaviour), means, strict=True)]
    learnt: dict[str, np.ndarray] = {}
    for name, mean, side, of in zip(SIDES, means, centred, _fit_maps(centred, seed), strict=True):
        share = np.float32(1 / np.sqrt(_explained(unit(side @ of), seed)))
        learnt |= {f"mean_{name}": mean, f"of_{name}": of, f"share_{name}": np.array(share)}
    return learnt


def aligned(text: np.ndarray, behaviour: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """(items, 2 * ALIGNED) float32 both sides mapped and weighed, from (items, …) vectors of both."""
    sides = [
        unit((side - maps[f"mean_{name}"]) @ maps[f"of_{name}"]) * maps[f"share_{name}"]
        for name, side in zip(SIDES, (text, behaviour), strict=True)
    ]
    return np.hstack(sides).astype(np.float32)


def info_nce(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Both ways: each row of (items, dim) unit vectors must find its own among the other's, in nats."""
    scores, own = one @ other.T / TEMPERATURE, torch.arange(len(one))
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def _fit_maps(sides_of_items: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """(dim, ALIGNED) float32 maps of (items, dim) sides whose mean is zero, one a side."""
    rng, sides = stream(seed, "align"), [torch.from_numpy(side) for side in sides_of_items]
    starts = [rng.normal(0, side.shape[1] ** -0.5, (side.shape[1], ALIGNED)).astype(np.float32) for side in sides]
    maps = [torch.nn.Parameter(torch.from_numpy(start)) for start in starts]
    optimiser = torch.optim.Adam(maps, lr=RATE)
    for _ in range(STEPS):
        batch = torch.from_numpy(rng.choice(len(sides[0]), min(BATCH, len(sides[0])), replace=False))
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
    centroids = kmeans(vectors, min(CLUSTERS, max(1, len(vectors) // 2)), seed % 2**31, plus_plus=True)
    left = np.square(vectors - centroids[nearest(vectors, centroids)]).sum(axis=1).mean()
    return max(1e-6, float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean() - left))
