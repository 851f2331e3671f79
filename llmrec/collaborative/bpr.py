"""BPR: matrix factorisation that ranks what a user has above what the user lacks.

Source: Rendle et al. 2009, arXiv 1205.2618. A history may be a new user's, who has no vector: for every user alike the
vector is the mean of those of the history's items. In generated worlds that did better than solving for it by ridge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.collaborative.devices import torch_device
from llmrec.collaborative.linear import canonical
from llmrec.collaborative.pairs import batches
from llmrec.contracts import Features, Memory, ScoreKind, Sequences, Sizes
from llmrec.recipe.collaborative import BprSpec
from llmrec.seed import stream


class Bpr(ArrayModel):
    """Scores an item by the inner product of its vector and the user's.

    Attributes:
        vectors: (n_items, width) float32, set by `fit`.
    """

    Spec = BprSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"vectors": ("float32", "items", "width")}
    score_kind: ScoreKind = "logits"
    spec: BprSpec
    vectors: np.ndarray

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        """Learn vectors of users and items; those of users are not kept."""
        train, spec, rng = canonical(train), self.spec, stream(self.spec.seed, "bpr")
        device, n_users, n_items = torch_device(spec.device, spec.kind), len(train), len(self.items)
        start = rng.normal(0, 0.1, (n_users + n_items, spec.width)).astype(np.float32)
        vectors = torch.nn.Parameter(torch.from_numpy(start).to(device))
        optimizer = torch.optim.Adam([vectors], lr=spec.learning_rate)
        for epoch in range(spec.epochs if n_users else 0):
            for rows, positives, negatives in batches(train, n_items, spec.batch, rng, device):
                # Gradients of `vectors[rows]` are added up in whatever order threads come; those of embeddings are not.
                user, positive, negative = (
                    functional.embedding(numbers, vectors)
                    for numbers in (rows, n_users + positives, n_users + negatives)
                )
                norms = (user.square() + positive.square() + negative.square()).sum(1)
                loss = (functional.softplus((user * (negative - positive)).sum(1)) + spec.l2 * norms).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            progress((epoch + 1) / spec.epochs)
        self.vectors = vectors.detach()[n_users:].cpu().numpy()

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for an empty history."""
        users = np.zeros((len(histories), self.spec.width), dtype=np.float32)
        for row, history in enumerate(histories):
            items = np.unique(history)
            users[row] = self.vectors[items].sum(axis=0) / max(len(items), 1)
        return users @ self.vectors.T

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """The vectors, their gradients and Adam's two moments."""
        vectors = (sizes.users + sizes.items) * self.spec.width
        batch = (40 * self.spec.width + 320) * min(self.spec.batch, sizes.events)
        fit = 48 * vectors + batch + 500 * sizes.users + 64 * sizes.events
        return Memory(fit, 4 * (sizes.items + rows) * self.spec.width + 4 * rows * sizes.items)

    def item_vectors(self) -> np.ndarray:
        """(n_items, width) float32."""
        return self.vectors
