"""Every way to index items, by the name that `indexing.method` gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from llmrec import extras
from llmrec.contracts import Sequences
from llmrec.indexing import behaviour, quantizers, wording
from llmrec.indexing.codes import Drawn
from llmrec.indexing.quantizers import VECTOR_METHODS
from llmrec.recipe import Indexing


@dataclass(frozen=True)
class Material:
    """What codes may be made from. Nothing held out.

    Attributes:
        items: the items table.
        text: (items, dim) float32 unit vectors of the items' text.
        vectors: (items, dim) float32 what vector methods quantize.
        train: the training part of every history; empty where there is none.
        seed: of the run.
    """

    items: pa.Table
    text: np.ndarray
    vectors: np.ndarray
    train: Sequences
    seed: int


def draw(settings: Indexing, material: Material) -> Drawn:
    """Codes by the method of a recipe, those of further methods (`indexing.hybrid`) behind them.

    Raises:
        CodeError: see the methods.
        LlmrecError: a package is missing.
    """
    drawn = METHODS[settings.method](settings, material)
    for name in settings.hybrid:
        drawn = beside(drawn, METHODS[name](settings.model_copy(update={"method": name}), material))
    return drawn


def beside(one: Drawn, other: Drawn) -> Drawn:
    """The codes of two methods, one behind the other, each with tokens of its own; they end as the second's do."""
    shift = len(one.widths)
    return replace(
        one,
        codes=np.hstack([one.codes, other.codes]),
        kinds=[*one.kinds, *(kind + shift for kind in other.kinds)],
        widths=[*one.widths, *other.widths],
        unique=other.unique,
        words=one.words | {kind + shift: words for kind, words in other.words.items()},
        facts=one.facts | other.facts,
    )


def _collaborative(settings: Indexing, material: Material) -> Drawn:
    extras.need("indexing")
    return behaviour.collaborative(
        material.train, material.items.num_rows, settings.levels, settings.width, material.text, material.seed
    )


def _quantized(settings: Indexing, material: Material) -> Drawn:
    return quantizers.draw(settings, material.vectors, material.seed)


METHODS: dict[str, Callable[[Indexing, Material], Drawn]] = {
    **dict.fromkeys(VECTOR_METHODS, _quantized),
    "sequential": lambda settings, material: behaviour.sequential(
        material.train, material.items.num_rows, settings.width, settings.spares
    ),
    "collaborative": _collaborative,
    "title": lambda settings, material: wording.title(material.items),
    "category": lambda settings, material: wording.category(material.items, settings.category, settings.levels),
    "number": lambda settings, material: wording.number(
        material.items.num_rows, settings.width, settings.spares, material.seed
    ),
    "item": lambda settings, material: wording.item(material.items.num_rows),
}
