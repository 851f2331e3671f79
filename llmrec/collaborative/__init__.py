"""Collaborative models that know no text: the baselines beside every figure, and sources of negatives and codes.

On Amazon Beauty EASE on recent items and Markov beat most published generative recommenders, so every table of ours
prints them unless it is told not to. All but `bpr`, `lightgcn` and `sasrec` are fitted in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmrec.collaborative.bpr import Bpr
from llmrec.collaborative.ease import Ease, EaseRecent
from llmrec.collaborative.item_knn import ItemKnn
from llmrec.collaborative.lightgcn import LightGcn
from llmrec.collaborative.markov import Markov
from llmrec.collaborative.markov_ease import MarkovEase
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sasrec import SasRec
from llmrec.contracts import Sequences, Teacher

__all__ = [
    "TEACHERS",
    "Bpr",
    "Ease",
    "EaseRecent",
    "ItemKnn",
    "LightGcn",
    "Markov",
    "MarkovEase",
    "Popularity",
    "SasRec",
    "fit_teachers",
]

TEACHERS: dict[str, Callable[[], Teacher]] = {
    "popularity": Popularity,
    "item-knn": ItemKnn,
    "ease": Ease,
    "ease-recent": EaseRecent,
    "markov": Markov,
    "markov-ease": MarkovEase,
    "bpr": Bpr,
    "lightgcn": LightGcn,
    "sasrec": SasRec,
}


def fit_teachers(names: Iterable[str], train: Sequences, n_items: int) -> dict[str, Teacher]:
    """Fit the named teachers on one training part; those with EASE in them share one matrix inverse.

    Args:
        names: keys of `TEACHERS`; the answer keeps their order.
        train: the training part of every history, oldest item first.
        n_items: items of the catalogue.

    Raises:
        KeyError: a name that is not in `TEACHERS`.
    """
    fitted: dict[str, Teacher] = {}
    ease: Ease | None = None
    for name in names:
        if TEACHERS[name] not in (Ease, EaseRecent, MarkovEase):
            fitted[name] = TEACHERS[name]().fit(train, n_items)
            continue
        ease = ease or Ease().fit(train, n_items)
        if name == "ease":
            fitted[name] = ease
        elif name == "ease-recent":
            fitted[name] = EaseRecent(ease=ease)
        else:
            fitted[name] = MarkovEase(Markov().fit(train, n_items), EaseRecent(ease=ease))
    return fitted
