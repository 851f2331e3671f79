"""What vector methods quantize: the text's vectors, a teacher's, co-occurrence's, or text and behaviour together.

An item that nobody had in training has no vector of behaviour: it takes the mean of those of the items nearest to it by
text. New items of a frozen catalogue do the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmrec.checked import read_arrays
from llmrec.contracts import Items, ItemVectors, Sequences
from llmrec.errors import CodeError
from llmrec.indexing.align import align, aligned
from llmrec.items.vectors import ppmi_vectors
from llmrec.recipe import Indexing
from llmrec.recipe.collaborative import BprSpec, LightGcnSpec, SasRecSpec, TrainedSpec

FILE = "vectors.npz"
MAPS = {
    "concat": {"scale": 1},
    "weighted": {"share": 1},
    "aligned": {
        "mean_text": 1,
        "of_text": 2,
        "share_text": 0,
        "mean_behaviour": 1,
        "of_behaviour": 2,
        "share_behaviour": 0,
    },
}  # axes of what each way to put both together has learnt
NEAREST, WIDTH = 10, 64  # items that lend their behaviour; numbers of a teacher's vector


@dataclass(frozen=True)
class Source:
    """Where vectors come from, frozen.

    Attributes:
        name: key of `VECTORS`.
        behaviour: (items, dim) float32, with the gaps filled; empty for text alone.
        maps: what was learnt or measured to put both together.
    """

    name: str
    behaviour: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, text: np.ndarray, behaviour: np.ndarray) -> np.ndarray:
        """(items, dim) float32 to be quantized, from (items, …) vectors of text and of behaviour."""
        return VECTORS[self.name](text, behaviour, self.maps)

    def new(self, text: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(new, dim) float32 to be quantized.

        Args:
            text: (new, dim) float32 vectors of the new items' text.
            known: (items, dim) float32 those of the items that `behaviour` is of.
        """
        return self.of(text, self.behaviour if self.name == "text" else lent(text, known, self.behaviour))

    def save(self, folder: Path) -> None:
        """Write what new items need; nothing for text alone."""
        if self.name != "text":
            np.savez(folder / FILE, behaviour=self.behaviour, **self.maps)  # type: ignore[arg-type]

    @classmethod
    def load(cls, name: str, folder: Path) -> Source:
        """Read what `save` wrote.

        Raises:
            CodeError: it is missing or damaged.
        """
        if name == "text":
            return cls(name)
        remedy = "Copy the folder again, or run the recipe again."
        maps = read_arrays(folder / FILE, {"behaviour": 2} | MAPS.get(name, {}), remedy, CodeError)
        return cls(name, maps.pop("behaviour"), maps)


def source(settings: Indexing, text: np.ndarray, train: Sequences | None, seed: int) -> Source:
    """Fit what `settings.vectors` asks for.

    Args:
        settings: vectors, teacher, weight.
        text: (items, dim) float32 unit vectors of text.
        train: the training part of every history.
        seed: of the teacher, or of the alignment.

    Raises:
        CodeError: vectors of behaviour are asked for, and there is no training event.
    """
    name = settings.vectors
    if name == "text":
        return Source(name)
    if train is None or not len(train.items):
        raise CodeError(f"indexing.vectors: {name} is learnt from training events, and there are none. Set it to text.")
    met = np.bincount(train.items, minlength=len(text)) > 0
    teacher = "ppmi" if name == "ppmi" else settings.teacher
    behaviour = teacher_vectors(teacher, train, len(text), seed)
    met &= np.square(behaviour).sum(axis=1) > 0
    if not met.any():
        raise CodeError(f"indexing.teacher: {teacher} learnt no vector from the training events. Choose another.")
    behaviour[~met] = lent(text[~met], text[met], behaviour[met])
    maps = {
        "concat": lambda: {"scale": np.array([_rms(text), _rms(behaviour)], np.float32)},
        "weighted": lambda: {"share": np.array([settings.weight], np.float32)},
        "aligned": lambda: align(text, behaviour, met, seed),
    }
    return Source(name, behaviour, maps[name]() if name in maps else {})


def teacher_vectors(name: str, train: Sequences, n_items: int, seed: int) -> np.ndarray:
    """(items, dim) float32 item vectors of a teacher fitted on the training part.

    Args:
        name: key of `TEACHER_VECTORS`.
        train: the training part of every history.
        n_items: of the catalogue.
        seed: of its start.
    """
    return np.array(TEACHER_VECTORS[name](train, n_items, seed), np.float32)


def lent(text: np.ndarray, known: np.ndarray, behaviour: np.ndarray) -> np.ndarray:
    """The mean vector of behaviour of the items nearest by text.

    Args:
        text: (new, dim) float32 unit vectors.
        known: (items, dim) float32 unit vectors.
        behaviour: (items, width) float32.

    Returns:
        (new, width) float32.
    """
    found = np.zeros((len(text), behaviour.shape[1]), np.float32)
    count = min(NEAREST, len(known))
    for start in range(0, len(text), 1024):
        near = np.argpartition(-(text[start : start + 1024] @ known.T), count - 1, axis=1)[:, :count]
        found[start : start + 1024] = behaviour[near].mean(axis=1)
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _rms(vectors: np.ndarray) -> float:
    return max(1e-12, float(np.sqrt(np.square(vectors - vectors.mean(axis=0)).mean())))


def _learnt(spec: type[TrainedSpec]) -> Callable[[Sequences, int, int], np.ndarray]:
    """The item vectors of a collaborative model, fitted with the width of `WIDTH` and a seed."""

    def vectors(train: Sequences, n_items: int, seed: int) -> np.ndarray:
        from llmrec.collaborative import fit_one

        model = fit_one(spec.model_validate({"width": WIDTH, "seed": seed}), train, Items.numbered(n_items))
        assert isinstance(model, ItemVectors)
        return model.item_vectors()

    return vectors


Fuse = Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], np.ndarray]
TEACHER_VECTORS: dict[str, Callable[[Sequences, int, int], np.ndarray]] = {
    "bpr": _learnt(BprSpec),
    "lightgcn": _learnt(LightGcnSpec),
    "sasrec": _learnt(SasRecSpec),
    "ppmi": lambda train, n_items, seed: ppmi_vectors(train, n_items, WIDTH, seed),
}
# How vectors of text and of behaviour become those that are quantized. Concatenated, each number has variance 1, so the
# longer part decides (PRORec, arXiv 2502.06269, shows that the text's does); weighted, each part has length 1 times its
# share; aligned, both are mapped to where those of one item lie near each other, and each weighs as much as what its
# clusters explain.
VECTORS: dict[str, Fuse] = {
    "text": lambda text, behaviour, maps: text,
    "teacher": lambda text, behaviour, maps: unit(behaviour),
    "ppmi": lambda text, behaviour, maps: unit(behaviour),
    "concat": lambda text, behaviour, maps: np.hstack([text / maps["scale"][0], behaviour / maps["scale"][1]]),
    "weighted": lambda text, behaviour, maps: np.hstack(
        [unit(text) * np.sqrt(1 - maps["share"][0]), unit(behaviour) * np.sqrt(maps["share"][0])]
    ),
    "aligned": aligned,
}
