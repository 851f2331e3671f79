"""How good recommendations are: figures per user first, then means with intervals and paired differences."""

from llmrec.metrics.fairness import CORRECTED, Exposure
from llmrec.metrics.ranking import (
    BEYOND,
    RANKING,
    Places,
    hit,
    mrr,
    ndcg,
    place,
    place_in_list,
    precision,
    weighted,
)
from llmrec.metrics.significance import Difference, Interval, bootstrap, paired
from llmrec.metrics.slices import slices

__all__ = [
    "BEYOND",
    "CORRECTED",
    "RANKING",
    "Difference",
    "Exposure",
    "Interval",
    "Places",
    "bootstrap",
    "hit",
    "mrr",
    "ndcg",
    "paired",
    "place",
    "place_in_list",
    "precision",
    "slices",
    "weighted",
]
