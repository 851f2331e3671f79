"""Rating prediction without a language model: means, biases, matrix factorisation and a small transformer."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from llmrec import resources
from llmrec.collaborative.sasrec import TransformerBlock
from llmrec.contracts import Predictor
from llmrec.rate.cases import RatingCases, histories
from llmrec.rate.ratings import VALID, Ratings
from llmrec.seed import stream

DAMPING = 5.0
"""Ratings equal to the mean that are added to every bias; LensKit's default."""
HISTORY = 10
"""Ratings of a history when the small transformer is trained; a case may have another number."""
_MAX_GENRES = 200


class GlobalMean:
    """The mean training rating."""

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        self.ratings, self.mean = ratings, ratings.mean

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) the same number."""
        return np.full(len(cases), self.mean)

    def leave_one_out(self) -> np.ndarray:
        """(events,) prediction of each training rating without using it; undefined for other events."""
        return np.full(len(self.ratings.values), self.mean)


class UserMean(GlobalMean):
    """The mean of the user's known ratings; the global mean where there are none."""

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) mean of each user."""
        return self.mean + _user_means(cases, self.ratings.values - self.mean, 0.0)


class ItemMean(GlobalMean):
    """The mean training rating of the item; the global mean where it has none."""

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        super().__init__(ratings)
        self.items = self.mean + _item_means(ratings, ratings.values - self.mean, 0.0)

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) mean of each item."""
        return self.items[self.ratings.items[cases.events]]


class UserItemBias(GlobalMean):
    """Global mean plus item bias plus user bias, each damped by `DAMPING`.

    Attributes:
        residuals: (events,) ratings minus global mean and item bias.
    """

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        super().__init__(ratings)
        self.items = _item_means(ratings, ratings.values - self.mean, DAMPING)
        self.residuals = ratings.values - self.mean - self.items[ratings.items]

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) the sum."""
        return self.mean + self.items[self.ratings.items[cases.events]] + _user_means(cases, self.residuals, DAMPING)

    def leave_one_out(self) -> np.ndarray:
        """(events,) prediction of each training rating without it in either bias; the global mean keeps it."""
        ratings = self.ratings
        item_bias = _leave_one_out_means(ratings, ratings.items, ratings.values - self.mean)
        return self.mean + item_bias + _leave_one_out_means(ratings, ratings.users, self.residuals)


class MatrixFactorisation:
    """LensKit's biased matrix factorisation by alternating least squares, with its defaults.

    The user's vector is computed from the known ratings of each case, so that new users of a temporal split have one.

    Source: Ekstrand 2020, arXiv 1809.03125; Zhou et al. 2008.
    """

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        resources.require_extras("rate")
        import pandas as pd
        from lenskit.als import BiasedMFScorer
        from lenskit.data import from_interactions_df
        from lenskit.training import TrainingOptions

        self.ratings, train = ratings, ratings.train
        columns = {"user_id": ratings.users, "item_id": ratings.items, "rating": ratings.values}
        frame = pd.DataFrame({name: values[train] for name, values in columns.items()})
        self.scorer = BiasedMFScorer()
        frame = frame.groupby(["user_id", "item_id"], as_index=False)["rating"].mean()  # LensKit wants one of each pair
        self.scorer.train(from_interactions_df(frame), TrainingOptions(rng=seed))

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) predicted ratings; those of `UserItemBias` for items without a training rating."""
        from lenskit.data import ItemList, RecQuery

        predictions = np.empty(len(cases))
        for row, event in enumerate(cases.events.tolist()):
            known = cases.known[row]
            history = ItemList(item_ids=self.ratings.items[known], rating=self.ratings.values[known].astype(np.float32))
            candidate = ItemList(item_ids=[int(self.ratings.items[event])])
            scores = self.scorer(RecQuery(user_items=history), candidate).scores()
            predictions[row] = np.nan if scores is None else scores[0]
        unknown = ~np.isfinite(predictions)
        predictions[unknown] = UserItemBias(self.ratings).predict(cases)[unknown]
        return predictions


class SmallTransformer:
    """Two transformer blocks of width 32, trained from scratch on what prompts contain; keeps the best epoch.

    A position of the history is the sum of its item's, its genres' and its rating's vector; the candidate, the last
    position, has no rating. An MLP maps the candidate's last state to one number.

    Source: the Transformer-MLP baseline of Kang et al. 2023, arXiv 2305.06474, section 4.2.
    """

    def __init__(self, ratings: Ratings, seed: int = 0, epochs: int = 4, batch: int = 512, rate: float = 2e-3) -> None:
        self.ratings, self.genres = ratings, _genre_indicators(ratings.genres)
        self.steps = ratings.scale.steps(ratings.values)
        self.spread = float(ratings.values[ratings.train].std()) or 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _RatingNetwork(ratings.n_items, self.genres.shape[1], len(ratings.scale.values))
            self._fit(stream(seed, "rate", "transformer"), epochs, batch, rate)

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) predicted ratings within the scale."""
        return self._predict(cases.history, cases.events)

    def _predict(self, history: np.ndarray, events: np.ndarray) -> np.ndarray:
        self.network.eval()
        parts = np.array_split(np.arange(len(events)), len(events) // 2048 + 1)
        with torch.inference_mode():
            outputs = torch.cat([self._forward(history[rows], events[rows]) for rows in parts]).double().numpy()
        return np.clip(outputs * self.spread + self.ratings.mean, self.ratings.scale.low, self.ratings.scale.high)

    def _fit(self, rng: np.random.Generator, epochs: int, batch: int, rate: float) -> None:
        ratings, network = self.ratings, self.network
        train, valid = ratings.train, np.flatnonzero(ratings.parts == VALID)
        train_history, valid_history = histories(ratings, train, HISTORY), histories(ratings, valid, HISTORY)
        targets = torch.from_numpy((ratings.values[train] - ratings.mean) / self.spread).float()
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
        lowest, best = np.inf, network.state_dict()
        for _ in range(epochs):
            network.train()
            for rows in np.array_split(rng.permutation(len(train)), max(1, len(train) // batch)):
                loss = nn.functional.mse_loss(self._forward(train_history[rows], train[rows]), targets[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            error = 0.0
            if len(valid):
                error = float(np.mean((self._predict(valid_history, valid) - ratings.values[valid]) ** 2))
            if error < lowest:
                lowest, best = error, {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(best)

    def _forward(self, history: np.ndarray, candidates: np.ndarray) -> Tensor:
        """(rows,) predictions, in standard deviations from the mean, of (rows, length) histories and (rows,) events."""
        ratings, no_rating = self.ratings, len(self.ratings.scale.values)
        events = np.concatenate([history, candidates[:, None]], axis=1)
        present = events >= 0
        items = np.where(present, ratings.items[events], ratings.n_items)
        steps = np.where(present, self.steps[events], no_rating)
        steps[:, -1] = no_rating  # the target
        return self.network(*map(torch.from_numpy, (items, self.genres[items], steps, present)))


class _RatingNetwork(nn.Module):
    def __init__(self, items: int, genres: int, steps: int, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, width)
        self.genres = nn.Linear(genres, width, bias=False)
        self.steps = nn.Embedding(steps + 1, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, 2, dropout) for _ in range(2))
        out = nn.Linear(width, 1)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), out)
        for table in (self.items, self.steps):
            nn.init.normal_(table.weight, std=0.05)
        nn.init.zeros_(out.weight)  # starts at the mean

    def forward(self, items: Tensor, genres: Tensor, steps: Tensor, present: Tensor) -> Tensor:
        """(rows, positions) numbers and (rows, positions, genres) indicators → (rows,) of the last position."""
        states = self.items(items) + self.genres(genres) + self.steps(steps)
        states = states * present[..., None]
        for block in self.blocks:
            states = block(states)
        return self.head(states[:, -1])[:, 0]


def _genre_indicators(genres: list[str]) -> np.ndarray:
    """(items + 1, genres) float32: which of the most frequent genres an item has; the last row has none."""
    of_items = [set(filter(None, (name.strip() for name in re.split(r"[,|>;]", text)))) for text in genres]
    names, counts = np.unique([name for of_item in of_items for name in sorted(of_item)], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_GENRES]
    columns = {str(names[index]): column for column, index in enumerate(order)}
    indicators = np.zeros((len(genres) + 1, max(1, len(columns))), np.float32)
    for row, of_item in enumerate(of_items):
        indicators[row, [columns[name] for name in of_item if name in columns]] = 1
    return indicators


BASELINES: dict[str, Callable[[Ratings, int], Predictor[RatingCases]]] = {
    "global mean": GlobalMean,
    "user mean": UserMean,
    "item mean": ItemMean,
    "user + item bias": UserItemBias,
    "matrix factorisation": MatrixFactorisation,
    "small transformer": SmallTransformer,
}


def _item_means(ratings: Ratings, residuals: np.ndarray, damping: float) -> np.ndarray:
    """(items,) damped mean residual of each item's training ratings; 0 where there are none."""
    items = ratings.items[ratings.train]
    total = np.bincount(items, weights=residuals[ratings.train], minlength=ratings.n_items)
    count = np.bincount(items, minlength=ratings.n_items) + damping
    return np.divide(total, count, out=np.zeros(ratings.n_items), where=count > 0)


def _leave_one_out_means(ratings: Ratings, owners: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """(events,) damped mean residual of the other training ratings of each event's item or user (its owner)."""
    train = ratings.train
    total = np.bincount(owners[train], weights=residuals[train], minlength=int(owners.max()) + 1)
    count = np.bincount(owners[train], minlength=len(total))
    return (total[owners] - residuals) / np.maximum(count[owners] - 1 + DAMPING, 1)


def _user_means(cases: RatingCases, residuals: np.ndarray, damping: float) -> np.ndarray:
    """(cases,) damped mean residual of each user's known ratings; 0 where there are none."""
    total = np.bincount(cases.known.rows, weights=residuals[cases.known.items], minlength=len(cases))
    count = cases.known.lengths + damping
    return np.divide(total, count, out=np.zeros(len(cases)), where=count > 0)
