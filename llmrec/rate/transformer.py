"""A small transformer from scratch over what prompts tell: the history's items, kinds and ratings, and the candidate.

A place of the history is the sum of its item's, its kinds' and its rating's vector; the candidate has no rating. What
the candidate's place holds after the blocks goes through an MLP to one number.

Source: the Transformer-MLP baseline of Kang et al. 2023, arXiv 2305.06474, section 4.2.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.collaborative.transformer import Block
from llmrec.rate.cases import Cases, histories
from llmrec.rate.ratings import VALID, Ratings
from llmrec.seed import stream

_MOST_KINDS = 200
PLACES = 10
"""Ratings of a history in training; a case may tell another number."""


class SmallTransformer:
    """Predicts by two blocks of 32 numbers; keeps the epoch that validates best."""

    def __init__(self, ratings: Ratings, seed: int = 0, epochs: int = 4, batch: int = 512, rate: float = 2e-3) -> None:
        self.ratings, self.words = ratings, _kinds(ratings.kinds)
        self.stars = ratings.scale.numbers(ratings.given)
        self.spread = float(ratings.given[ratings.train].std()) or 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _Network(ratings.n_items, self.words.shape[1], len(ratings.scale.values))
            self._fit(stream(seed, "rate", "transformer"), epochs, batch, rate)

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) predicted ratings within the scale."""
        return self._predict(cases.history, cases.events)

    def _predict(self, history: np.ndarray, events: np.ndarray) -> np.ndarray:
        self.network.eval()
        parts = np.array_split(np.arange(len(events)), len(events) // 2048 + 1)
        with torch.inference_mode():
            found = torch.cat([self._standard(history[rows], events[rows]) for rows in parts]).double().numpy()
        return np.clip(found * self.spread + self.ratings.mean, self.ratings.scale.low, self.ratings.scale.high)

    def _fit(self, draw: np.random.Generator, epochs: int, batch: int, rate: float) -> None:
        ratings, network = self.ratings, self.network
        train, valid = ratings.train, np.flatnonzero(ratings.parts == VALID)
        before, before_valid = histories(ratings, train, PLACES), histories(ratings, valid, PLACES)
        wanted = torch.from_numpy((ratings.given[train] - ratings.mean) / self.spread).float()
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
        best, kept = np.inf, network.state_dict()
        for _ in range(epochs):
            network.train()
            for rows in np.array_split(draw.permutation(len(train)), max(1, len(train) // batch)):
                loss = nn.functional.mse_loss(self._standard(before[rows], train[rows]), wanted[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            guess = self._predict(before_valid, valid) if len(valid) else np.zeros(0)
            error = float(np.mean((guess - ratings.given[valid]) ** 2)) if len(valid) else 0.0
            if error < best:
                best, kept = error, {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(kept)

    def _standard(self, history: np.ndarray, asked: np.ndarray) -> Tensor:
        """(rows,) predictions in standard deviations from the mean, of (rows, places) histories and (rows,) events."""
        ratings = self.ratings
        events = np.concatenate([history, asked[:, None]], axis=1)
        there = events >= 0
        items = np.where(there, ratings.items[events], ratings.n_items)
        stars = np.where(there, self.stars[events], len(ratings.scale.values))
        stars[:, -1] = len(ratings.scale.values)  # what is to be predicted
        return self.network(*map(torch.from_numpy, (items, self.words[items], stars, there)))


class _Network(nn.Module):
    def __init__(self, items: int, kinds: int, stars: int, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, width)
        self.kinds = nn.Linear(kinds, width, bias=False)
        self.stars = nn.Embedding(stars + 1, width)
        self.blocks = nn.ModuleList(Block(width, 2, dropout) for _ in range(2))
        out = nn.Linear(width, 1)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), out)
        for table in (self.items, self.stars):
            nn.init.normal_(table.weight, std=0.05)
        nn.init.zeros_(out.weight)  # starts at the mean

    def forward(self, items: Tensor, kinds: Tensor, stars: Tensor, there: Tensor) -> Tensor:
        """(rows, places) numbers and (rows, places, kinds) marks → (rows,); the last place is the candidate."""
        states = self.items(items) + self.kinds(kinds) + self.stars(stars)
        states = states * there[..., None]
        for block in self.blocks:
            states = block(states)
        return self.head(states[:, -1])[:, 0]


def _kinds(kinds: list[str]) -> np.ndarray:
    """(items + 1, words) float32: which of the most used words of kinds an item has; the last row has none."""
    split = [set(filter(None, (word.strip() for word in re.split(r"[,|>;]", text)))) for text in kinds]
    names, counts = np.unique([word for words in split for word in sorted(words)], return_counts=True)
    chosen = {str(names[place]): at for at, place in enumerate(np.argsort(-counts, kind="stable")[:_MOST_KINDS])}
    marks = np.zeros((len(kinds) + 1, max(1, len(chosen))), np.float32)
    for row, words in enumerate(split):
        marks[row, [chosen[word] for word in words if word in chosen]] = 1
    return marks
