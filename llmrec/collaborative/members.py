"""Every collaborative model by its name in recipes, and the order in which those that share parts are fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmrec.collaborative.array_model import ArrayModel
from llmrec.collaborative.bpr import Bpr
from llmrec.collaborative.ease import Ease, EaseRecent
from llmrec.collaborative.item_knn import ItemKnn
from llmrec.collaborative.lightgcn import LightGcn
from llmrec.collaborative.markov import Markov
from llmrec.collaborative.markov_ease import MarkovEase
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sasrec import SasRec
from llmrec.contracts import CollaborativeModel
from llmrec.recipe.model_spec import ModelSpec

MODELS: dict[str, type[ArrayModel]] = {
    model.Spec.kind: model
    for model in (Popularity, ItemKnn, Ease, EaseRecent, Markov, MarkovEase, Bpr, LightGcn, SasRec)
}


def with_parts(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    """Models and all that they are composed of, each once, parts before the models that they belong to."""
    ordered: dict[str, ModelSpec] = {}
    for spec in specs:
        for part in (*with_parts(spec.parts.values()), spec):
            ordered.setdefault(part.slug, part)
    return list(ordered.values())


def build(spec: ModelSpec, parts: Mapping[str, CollaborativeModel] | None = None) -> ArrayModel:
    """The model that a recipe asks for, not fitted yet.

    Args:
        spec: kind and parameters.
        parts: fitted models that it is composed of, by their role.
    """
    return MODELS[spec.kind].of(spec, parts)
