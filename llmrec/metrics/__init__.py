"""How good recommendations are: figures per user first, then means with intervals and paired differences."""

from llmrec.metrics.fairness import CORRECTED, FAIRNESS, Exposure
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
from llmrec.metrics.several import SEVERAL, Group, place_several, place_several_in_list
from llmrec.metrics.significance import Difference, Interval, bootstrap, paired
from llmrec.metrics.slices import slices

__all__ = [
    "BEYOND",
    "CORRECTED",
    "FAIRNESS",
    "RANKING",
    "SEVERAL",
    "Difference",
    "Exposure",
    "Group",
    "Interval",
    "Places",
    "bootstrap",
    "hit",
    "mrr",
    "ndcg",
    "paired",
    "place",
    "place_in_list",
    "place_several",
    "place_several_in_list",
    "precision",
    "slices",
    "weighted",
]
