"""BPR: matrix factorisation that ranks what a user has above what the user lacks.

Source: Rendle et al. 2009, arXiv 1205.2618. A history may be of somebody new, who has no vector: for everybody alike
the user is the mean of the items of the history. In generated worlds that did better than solving for it by ridge.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch.nn import functional

from llmrec.collaborative.linear import canonical
from llmrec.collaborative.pairs import batches
from llmrec.contracts import Sequences
from llmrec.seed import stream


class Bpr:
    """Scores an item by the inner product of its vector and the user's.

    Args:
        width: numbers of a vector.
        epochs: passes over the training events.
        batch: triples of a step.
        learning_rate: of Adam.
        decay: squared-norm penalty on the vectors of a triple.
        seed: of the start, the order and the negatives.

    Attributes:
        items: (n_items, width) float32, set by `fit`.
    """

    items: np.ndarray

    def __init__(
        self,
        width: int = 64,
        epochs: int = 40,
        batch: int = 2048,
        learning_rate: float = 5e-3,
        decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        self.width, self.epochs, self.batch, self.seed = width, epochs, batch, seed
        self.learning_rate, self.decay = learning_rate, decay

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Learn vectors of users and items; those of users are not kept. Returns itself."""
        train, rng = canonical(train), stream(self.seed, "bpr")
        start = rng.normal(0, 0.1, (len(train) + n_items, self.width)).astype(np.float32)
        vectors = torch.nn.Parameter(torch.from_numpy(start))
        optimiser = torch.optim.Adam([vectors], lr=self.learning_rate)
        for _ in range(self.epochs if len(train) else 0):
            for rows, liked, other in batches(train, n_items, self.batch, rng):
                user, good, bad = (
                    vectors[torch.from_numpy(at)] for at in (rows, len(train) + liked, len(train) + other)
                )
                size = (user.square() + good.square() + bad.square()).sum(1)
                loss = (functional.softplus((user * (bad - good)).sum(1)) + self.decay * size).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        self.items = vectors.detach()[len(train) :].numpy()
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for an empty history."""
        users = np.zeros((len(histories), self.width), dtype=np.float32)
        for row, history in enumerate(histories):
            own = np.unique(history)
            users[row] = self.items[own].sum(axis=0) / max(len(own), 1)
        return users @ self.items.T
