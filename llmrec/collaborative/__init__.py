"""Collaborative models: they know items by what users did, and score every item after a history.

They are the baselines beside every figure, teachers, and sources of negatives and of codes. On Amazon Beauty EASE on
recent items and Markov beat most published generative recommenders, so every table of ours prints them unless a recipe
names others. All but `bpr`, `lightgcn` and `sasrec` are fitted in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from llmrec.collaborative.array_model import ArrayModel
from llmrec.collaborative.bpr import Bpr
from llmrec.collaborative.ease import Ease, EaseRecent
from llmrec.collaborative.item_knn import ItemKnn
from llmrec.collaborative.lightgcn import LightGcn
from llmrec.collaborative.markov import Markov
from llmrec.collaborative.markov_ease import MarkovEase
from llmrec.collaborative.members import MODELS, build, with_parts
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sasrec import SasRec
from llmrec.collaborative.saved import SavedModel
from llmrec.collaborative.size_guard import peak_memory, refuse_too_large
from llmrec.contracts import Features, Items, Sequences, Sizes
from llmrec.errors import ModelError
from llmrec.recipe.collaborative import Device
from llmrec.recipe.model_spec import ModelSpec

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
    features: Features = Features(),
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, ArrayModel]:
    """Fit models on one training part; a part that several are composed of is fitted once.

    Args:
        specs: which models.
        train: the training part of every history, oldest item first.
        items: of the catalogue.
        features: what else there is to learn from.
        progress: called with the share done, 0 to 1.

    Returns:
        The models asked for by `ModelSpec.name`, in their order.

    Raises:
        ModelError: one does not fit this machine's memory, or see `CollaborativeModel.fit`.
        DataError: a feature that one needs is missing.
    """
    fitted: dict[str, ArrayModel] = {}
    refuse_too_large(specs, Sizes(len(train), len(items), len(train.items)))
    ordered = with_parts(specs)
    for number, spec in enumerate(ordered):
        parts = {role: fitted[part.slug] for role, part in spec.parts.items()}
        model = build(spec, parts)
        fitted[spec.slug] = model.fit(train, items, features, partial(_progress_of, progress, number, len(ordered)))
    return {spec.name: fitted[spec.slug] for spec in specs}


def fit_one(spec: ModelSpec, train: Sequences, items: Items, features: Features = Features()) -> ArrayModel:
    """As `fit`, of one model."""
    return fit([spec], train, items, features)[spec.name]


def load(folder: Path, items: Items, device: Device = "auto") -> ArrayModel:
    """Load a saved model, and the parts that it is composed of from the folders beside it, named by their slugs.

    Args:
        folder: as `ArrayModel.save` wrote it.
        items: those that will be scored.
        device: where it computes, if it is one that may use a GPU.

    Raises:
        ModelError: see `ArrayModel.load`; or no model of that kind is known.
    """
    saved = SavedModel.read(folder)
    if saved.model not in MODELS:
        raise ModelError(f"{folder} holds the model '{saved.model}', but these are known: {', '.join(MODELS)}.")
    model = MODELS[saved.model]
    composed_of = saved.spec(model.Spec, folder).parts
    parts = {role: load(folder.parent / part.slug, items, device) for role, part in composed_of.items()}
    return model.load(folder, items, parts, device)


def _progress_of(progress: Callable[[float], None], number: int, models: int, share: float) -> None:
    progress((number + share) / models)
