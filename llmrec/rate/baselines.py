"""What needs no language model: global, user and item mean, user + item bias, a library's matrix factorisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmrec import extras
from llmrec.contracts import Predictor
from llmrec.rate.cases import Cases
from llmrec.rate.ratings import Ratings
from llmrec.rate.transformer import SmallTransformer

DAMPING = 5.0
"""Ratings at the mean that every bias is diluted with; LensKit's default."""


class GlobalMean:
    """The mean training rating, for everybody."""

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        self.ratings, self.mean = ratings, ratings.mean

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) the same number."""
        return np.full(len(cases), self.mean)

    def without_itself(self) -> np.ndarray:
        """(events,) what it says of each training rating while that one is not known; other events have no meaning."""
        return np.full(len(self.ratings.given), self.mean)


class UserMean(GlobalMean):
    """The mean of what is known of the user; the global mean where that is nothing."""

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) a mean each."""
        return self.mean + _damped(cases, self.ratings.given - self.mean, 0.0)


class ItemMean(GlobalMean):
    """The mean training rating of the item; the global mean where it has none."""

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        super().__init__(ratings)
        self.items = self.mean + _of_items(ratings, ratings.given - self.mean, 0.0)

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) a mean each."""
        return self.items[self.ratings.items[cases.events]]


class Bias(GlobalMean):
    """Global mean plus a bias of the item and one of the user, each diluted by `DAMPING`."""

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        super().__init__(ratings)
        self.items = _of_items(ratings, ratings.given - self.mean, DAMPING)
        self.left = ratings.given - self.mean - self.items[ratings.items]

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) the sum."""
        return self.mean + self.items[self.ratings.items[cases.events]] + _damped(cases, self.left, DAMPING)

    def without_itself(self) -> np.ndarray:
        """(events,) the same of training ratings, each left out of its item's and its user's bias; the mean stays."""
        ratings = self.ratings
        of_item = _others(ratings, ratings.items, ratings.given - self.mean)
        return self.mean + of_item + _others(ratings, ratings.users, self.left)


class LensKit:
    """Biased matrix factorisation by alternating least squares, LensKit's, with its defaults.

    A case's user is folded in from what is known of them, so that a temporal split's new users have an answer, too.

    Source: Ekstrand 2020, arXiv 1809.03125; Zhou et al. 2008.
    """

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        extras.need("rate")
        import pandas as pd
        from lenskit.als import BiasedMFScorer
        from lenskit.data import from_interactions_df
        from lenskit.training import TrainingOptions

        self.ratings, train = ratings, ratings.train
        columns = {"user_id": ratings.users, "item_id": ratings.items, "rating": ratings.given}
        frame = pd.DataFrame({name: values[train] for name, values in columns.items()})
        self.scorer = BiasedMFScorer()
        frame = frame.groupby(["user_id", "item_id"], as_index=False)["rating"].mean()  # LensKit wants one of each pair
        self.scorer.train(from_interactions_df(frame), TrainingOptions(rng=seed))

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) predicted ratings; the bias model's for items that had no training rating."""
        from lenskit.data import ItemList, RecQuery

        found = np.empty(len(cases))
        for row, event in enumerate(cases.events.tolist()):
            known = cases.known[row]
            met = ItemList(item_ids=self.ratings.items[known], rating=self.ratings.given[known].astype(np.float32))
            wanted = ItemList(item_ids=[int(self.ratings.items[event])])
            scores = self.scorer(RecQuery(user_items=met), wanted).scores()
            found[row] = np.nan if scores is None else scores[0]
        unknown = ~np.isfinite(found)
        found[unknown] = Bias(self.ratings).predict(cases)[unknown]
        return found


BASELINES: dict[str, Callable[[Ratings, int], Predictor[Cases]]] = {
    "global mean": GlobalMean,
    "user mean": UserMean,
    "item mean": ItemMean,
    "user + item bias": Bias,
    "matrix factorisation": LensKit,
    "small transformer": SmallTransformer,
}


def _of_items(ratings: Ratings, left: np.ndarray, damping: float) -> np.ndarray:
    """(items,) mean of what is left of each item's training ratings, diluted; 0 where there are none."""
    train = ratings.train
    total = np.bincount(ratings.items[train], weights=left[train], minlength=ratings.n_items)
    count = np.bincount(ratings.items[train], minlength=ratings.n_items) + damping
    return np.divide(total, count, out=np.zeros(ratings.n_items), where=count > 0)


def _others(ratings: Ratings, owners: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(events,) diluted mean of what is left of the owner's other training ratings."""
    train = ratings.train
    total = np.bincount(owners[train], weights=left[train], minlength=int(owners.max()) + 1)
    count = np.bincount(owners[train], minlength=len(total))
    return (total[owners] - left) / np.maximum(count[owners] - 1 + DAMPING, 1)


def _damped(cases: Cases, left: np.ndarray, damping: float) -> np.ndarray:
    """(cases,) mean of what is left of each user's known ratings, diluted; 0 where there are none."""
    total = np.bincount(cases.known.rows, weights=left[cases.known.items], minlength=len(cases))
    count = cases.known.lengths + damping
    return np.divide(total, count, out=np.zeros(len(cases)), where=count > 0)
