"""LightGCN: vectors of users and items averaged over the graph of who had what, nothing else.

Source: He et al. 2020, arXiv 2002.02126, eqs. 7 and 11. A history may be of somebody new, who has no vector before the
first layer: for everybody alike the user is the mean of the layers above it, which the history alone gives.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmrec.collaborative.linear import canonical
from llmrec.collaborative.pairs import batches
from llmrec.contracts import Sequences
from llmrec.seed import stream


class LightGcn:
    """Scores an item by the inner product of its averaged vector and the user's.

    Args:
        width: numbers of a vector.
        layers: steps along the graph.
        epochs, batch, learning_rate, decay, seed: as for `Bpr`; the loss is the same.

    Attributes:
        steps: `layers` + 1 arrays (n_items, width) float32, the items after each step; set by `fit`.
        degrees: (n_items,) float32, training users of each item.
    """

    steps: list[np.ndarray]
    degrees: np.ndarray

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        epochs: int = 40,
        batch: int = 4096,
        learning_rate: float = 5e-3,
        decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.width, self.layers, self.epochs, self.batch = width, layers, epochs, batch
        self.learning_rate, self.decay, self.seed = learning_rate, decay, seed

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Learn the first vectors; returns itself."""
        train, rng = canonical(train), stream(self.seed, "lightgcn")
        start = rng.normal(0, 0.1, (len(train) + n_items, self.width)).astype(np.float32)
        vectors = torch.nn.Parameter(torch.from_numpy(start))
        there, back, degrees = _graph(train, n_items)
        optimiser = torch.optim.Adam([vectors], lr=self.learning_rate)
        for _ in range(self.epochs if len(train) else 0):
            for rows, liked, other in batches(train, n_items, self.batch, rng):
                layers = self._walk(vectors, there, back)
                users, items = (torch.stack(side).mean(0) for side in zip(*layers, strict=True))
                user, good, bad = users[rows], items[liked], items[other]
                first = torch.cat([vectors[rows], vectors[len(train) + liked], vectors[len(train) + other]])
                loss = functional.softplus((user * (bad - good)).sum(1)).mean()
                loss = loss + self.decay * first.square().sum() / len(rows)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            self.steps = [items.numpy() for _, items in self._walk(vectors, there, back)]
        self.degrees = degrees
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for a history without an item that was trained on."""
        users = np.zeros((len(histories), self.width), dtype=np.float32)
        for row, history in enumerate(histories):
            own = np.unique(history)
            own = own[self.degrees[own] > 0]
            if len(own):
                weights = 1 / np.sqrt(len(own) * self.degrees[own])
                users[row] = sum(weights @ step[own] for step in self.steps[:-1])
        return users @ np.mean(self.steps, axis=0).T

    def _walk(self, vectors: Tensor, there: Tensor, back: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Users and items before the first step and after each."""
        found = [(vectors[: there.shape[0]], vectors[there.shape[0] :])]
        for _ in range(self.layers):
            users, items = found[-1]
            found.append((torch.sparse.mm(there, items), torch.sparse.mm(back, users)))
        return found


def _graph(train: Sequences, n_items: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """1 / sqrt(degree of user · degree of item) at each pair, users x items and items x users; and degrees of items."""
    pairs = np.unique(train.rows * n_items + train.items)
    users, items = pairs // n_items, pairs % n_items
    degrees = np.bincount(items, minlength=n_items).astype(np.float32)
    own = np.bincount(users, minlength=len(train)).astype(np.float32)
    values = torch.from_numpy((1 / np.sqrt(own[users] * degrees[items])).astype(np.float32))
    shape = (len(train), n_items)
    there = torch.sparse_coo_tensor(torch.from_numpy(np.stack([users, items])), values, shape, check_invariants=True)
    return there.coalesce(), there.t().coalesce(), degrees
