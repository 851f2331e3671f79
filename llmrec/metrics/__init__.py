"""How good recommendations are: figures per user first, then means with intervals and paired differences."""

from llmrec.metrics.ranking import BEYOND, RANKING, Places, hit, mrr, ndcg, place, place_in_list
from llmrec.metrics.significance import Difference, Interval, bootstrap, paired

__all__ = [
    "BEYOND",
    "RANKING",
    "Difference",
    "Interval",
    "Places",
    "bootstrap",
    "hit",
    "mrr",
    "ndcg",
    "paired",
    "place",
    "place_in_list",
]
