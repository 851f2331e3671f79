"""LightGCN: vectors of users and items averaged over the graph of who had what, nothing else.

Source: He et al. 2020, arXiv 2002.02126, eqs. 7 and 11. A history may be a new user's, who has no vector before the
first layer: for every user alike the vector is the mean of the layers above it, which the history alone gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmrec.collaborative.array_model import ArrayModel, Shape
from llmrec.collaborative.devices import torch_device
from llmrec.collaborative.linear import canonical
from llmrec.collaborative.pairs import batches
from llmrec.contracts import Features, Memory, ScoreKind, Sequences, Sizes
from llmrec.recipe.collaborative import LightGcnSpec
from llmrec.seed import stream


class LightGcn(ArrayModel):
    """Scores an item by the inner product of its averaged vector and the user's; the loss is that of `Bpr`.

    Attributes:
        steps: (layers + 1, n_items, width) float32, the items before the first layer and after each; set by `fit`.
        degrees: (n_items,) float32, training users of each item.
    """

    Spec = LightGcnSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {
        "steps": ("float32", "layers + 1", "items", "width"),
        "degrees": ("float32", "items"),
    }
    score_kind: ScoreKind = "logits"
    spec: LightGcnSpec
    steps: np.ndarray
    degrees: np.ndarray

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        """Learn the vectors before the first layer."""
        train, spec, rng = canonical(train), self.spec, stream(self.spec.seed, "lightgcn")
        device, n_users, n_items = torch_device(spec.device, spec.kind), len(train), len(self.items)
        start = rng.normal(0, 0.1, (n_users + n_items, spec.width)).astype(np.float32)
        vectors = torch.nn.Parameter(torch.from_numpy(start).to(device))
        to_users, self.degrees = _graph(train, n_items)
        graph = to_users.to(device), to_users.t().coalesce().to(device)
        optimizer = torch.optim.Adam([vectors], lr=spec.learning_rate)
        for epoch in range(spec.epochs if n_users else 0):
            for rows, positives, negatives in batches(train, n_items, spec.batch, rng, device):
                layers = _propagate(vectors, graph, spec.layers)
                users, items = (torch.stack(side).mean(0) for side in zip(*layers, strict=True))
                user = functional.embedding(rows, users)  # as in `Bpr`
                positive, negative = (functional.embedding(numbers, items) for numbers in (positives, negatives))
                first = functional.embedding(torch.cat([rows, n_users + positives, n_users + negatives]), vectors)
                loss = functional.softplus((user * (negative - positive)).sum(1)).mean()
                loss = loss + spec.l2 * first.square().sum() / len(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            progress((epoch + 1) / spec.epochs)
        with torch.no_grad():
            self.steps = np.stack([items.cpu().numpy() for _, items in _propagate(vectors, graph, spec.layers)])

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for a history without an item that was trained on."""
        users = np.zeros((len(histories), self.spec.width), dtype=np.float32)
        for row, history in enumerate(histories):
            items = np.unique(history)
            items = items[self.degrees[items] > 0]
            if len(items):
                weights = 1 / np.sqrt(len(items) * self.degrees[items])
                users[row] = sum(weights @ step[items] for step in self.steps[:-1])
        return users @ self.item_vectors().T

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """Every layer's vectors and their gradients, Adam's two moments, and the graph twice."""
        vectors, layers = (sizes.users + sizes.items) * self.spec.width, self.spec.layers + 1
        batch = (40 * self.spec.width + 320) * min(self.spec.batch, sizes.events)
        fit = (16 * layers + 48) * vectors + batch + 500 * sizes.users + 200 * sizes.events
        held = 4 * (layers + 1) * sizes.items * self.spec.width
        return Memory(fit, held + 4 * rows * (self.spec.width + sizes.items))

    def item_vectors(self) -> np.ndarray:
        """(n_items, width) float32, the mean over layers."""
        return np.mean(self.steps, axis=0)

    def _is_consistent(self) -> bool:
        return len(self.steps) == self.spec.layers + 1


def _propagate(vectors: Tensor, graph: tuple[Tensor, Tensor], layers: int) -> list[tuple[Tensor, Tensor]]:
    """(users, width) and (items, width) before the first layer and after each."""
    to_users, to_items = graph
    steps = [(vectors[: to_users.shape[0]], vectors[to_users.shape[0] :])]
    for _ in range(layers):
        users, items = steps[-1]
        steps.append((torch.sparse.mm(to_users, items), torch.sparse.mm(to_items, users)))
    return steps


def _graph(train: Sequences, n_items: int) -> tuple[Tensor, np.ndarray]:
    """(users, n_items) sparse, 1 / sqrt(degree of user · degree of item) at each pair; and (n_items,) degrees."""
    pairs = np.unique(train.rows * n_items + train.items)
    users, items = pairs // n_items, pairs % n_items
    degrees = np.bincount(items, minlength=n_items).astype(np.float32)
    user_degrees = np.bincount(users, minlength=len(train)).astype(np.float32)
    values = torch.from_numpy((1 / np.sqrt(user_degrees[users] * degrees[items])).astype(np.float32))
    indices, shape = torch.from_numpy(np.stack([users, items])), (len(train), n_items)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True).coalesce(), degrees
