"""Collaborative models: they know items by what users did, and score every item after a history.

They are the baselines beside every figure, teachers, and sources of negatives and of codes. On Amazon Beauty EASE on
recent items and Markov beat most published generative recommenders, so every table of ours prints them unless a recipe
names others. All but `bpr`, `lightgcn` and `sasrec` are fitted in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmrec.collaborative.array_model import ArrayModel, SavedModel
from llmrec.collaborative.counts import Markov, MarkovEase, Popularity
from llmrec.collaborative.factors import Bpr, LightGcn
from llmrec.collaborative.linear import Ease, EaseRecent, ItemKnn
from llmrec.collaborative.members import MODELS, build, peak_memory, refuse_too_large, with_parts
from llmrec.collaborative.sasrec import SasRec
from llmrec.contracts import Items, Sequences, Sizes
from llmrec.errors import ModelError
from llmrec.recipe.collaborative import Device, ModelSpec

__all__ = [
    "MODELS",
    "ArrayModel",
    "Bpr",
    "Ease",
    "EaseRecent",
    "ItemKnn",
    "LightGcn",
    "Markov",
    "MarkovEase",
    "Popularity",
    "SasRec",
    "build",
    "fit",
    "fit_one",
    "load",
    "peak_memory",
    "refuse_too_large",
    "with_parts",
]


def fit(
    specs: Sequence[ModelSpec],
    train: Sequences,
    items: Items,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, ArrayModel]:
    """Fit models on the training part of every history; a part that several are composed of is fitted once.

    Args:
        specs: which models.
        train, items: as in `CollaborativeModel.fit`.
        progress: called with the share done, 0 to 1.

    Returns:
        The models asked for by `ModelSpec.name`, in their order.

    Raises:
        ModelError: one does not fit this machine's memory, or see `CollaborativeModel.fit`.
    """
    fitted: dict[str, ArrayModel] = {}
    refuse_too_large(specs, Sizes(len(train), len(items), len(train.items)))
    ordered = with_parts(specs)
    for number, spec in enumerate(ordered):

        def progress_of_all(share: float, done: int = number) -> None:
            progress((done + share) / len(ordered))

        model = build(spec, {role: fitted[part.slug] for role, part in spec.parts.items()})
        fitted[spec.slug] = model.fit(train, items, progress_of_all)
    return {spec.name: fitted[spec.slug] for spec in specs}


def fit_one(spec: ModelSpec, train: Sequences, items: Items) -> ArrayModel:
    """As `fit`, of one model."""
    return fit([spec], train, items)[spec.name]


def load(folder: Path, items: Items, device: Device = "auto") -> ArrayModel:
    """Load a saved model, and the parts that it is composed of from the folders beside it, named by their slugs.

    Args:
        folder: as `ArrayModel.save` wrote it.
        items: those that will be scored; they must be those that it was fitted on.
        device: where it computes, if it is one that may use a GPU.

    Raises:
        ModelError: damaged, of another version or a kind that is not known, or fitted on other items.
    """
    saved = SavedModel.read(folder, items)
    if saved.model not in MODELS:
        raise ModelError(f"{folder} holds the model '{saved.model}', but these are known: {', '.join(MODELS)}.")
    spec = saved.spec(MODELS[saved.model].Spec, folder, device)
    parts = {role: load(folder.parent / part.slug, items, device) for role, part in spec.parts.items()}
    return build(spec, parts).restore(folder, items)
