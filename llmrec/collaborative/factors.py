"""BPR and LightGCN: vectors of users and items, trained to rank the items of a user above other items.

A history may be that of a new user, who has no trained vector, so every user's vector is computed from the vectors of
the history's items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmrec.collaborative.array_model import ArrayModel, Shape, torch_device
from llmrec.contracts import Memory, ScoreKind, Sequences, Sizes
from llmrec.recipe.collaborative import BprSpec, LightGcnSpec
from llmrec.seed import stream


class Bpr(ArrayModel):
    """Scores an item by the inner product of its vector and the mean vector of the history's items.

    On synthetic data the mean was better than the ridge solution for the user's vector.

    Attributes:
        vectors: (n_items, width) float32, set by `fit`.

    Source: Rendle et al. 2009, arXiv 1205.2618.
    """

    Spec = BprSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"vectors": ("float32", "items", "width")}
    score_kind: ScoreKind = "logits"
    spec: BprSpec
    vectors: np.ndarray

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        """Train vectors of users and items; those of users are not kept."""
        train = canonical(train)
        n_users = len(train)

        def loss(vectors: Tensor, rows: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
            user, positive, negative = (
                functional.embedding(numbers, vectors) for numbers in (rows, n_users + positives, n_users + negatives)
            )
            norms = (user.square() + positive.square() + negative.square()).sum(1)
            return (functional.softplus((user * (negative - positive)).sum(1)) + self.spec.l2 * norms).mean()

        self.vectors = _train(self.spec, train, len(self.items), loss, progress)[n_users:].cpu().numpy()

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


class LightGcn(ArrayModel):
    """Scores an item by inner products of vectors that are averaged over layers of the user-item graph.

    The loss is that of `Bpr`. A user's vector is the mean over the layers above the first, which need only the history.

    Attributes:
        steps: (layers + 1, n_items, width) float32, vectors before the first layer and after each; set by `fit`.
        degrees: (n_items,) float32, training users of each item.

    Source: He et al. 2020, arXiv 2002.02126, eqs. 7 and 11.
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

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        """Train the vectors before the first layer."""
        train, spec = canonical(train), self.spec
        device, n_users = torch_device(spec.device, spec.kind), len(train)
        to_users, self.degrees = _graph(train, len(self.items))
        graph = to_users.to(device), to_users.t().coalesce().to(device)

        def loss(vectors: Tensor, rows: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
            layers = _propagate(vectors, graph, spec.layers)
            users, items = (torch.stack(side).mean(0) for side in zip(*layers, strict=True))
            user = functional.embedding(rows, users)
            positive, negative = (functional.embedding(numbers, items) for numbers in (positives, negatives))
            first = functional.embedding(torch.cat([rows, n_users + positives, n_users + negatives]), vectors)
            value = functional.softplus((user * (negative - positive)).sum(1)).mean()
            return value + spec.l2 * first.square().sum() / len(rows)

        vectors = _train(spec, train, len(self.items), loss, progress)
        self.steps = np.stack([items.cpu().numpy() for _, items in _propagate(vectors, graph, spec.layers)])

    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32; 0 for a history without an item of the training part."""
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


def canonical(train: Sequences) -> Sequences:
    """The rows that are not empty, sorted by content, so that training does not depend on the order of users."""
    rows: list[np.ndarray] = [train[int(row)] for row in np.flatnonzero(train.lengths)]
    rows.sort(key=lambda row: row.astype(">i4").tobytes())
    return Sequences.of(rows)


def _train(
    spec: BprSpec | LightGcnSpec,
    train: Sequences,
    n_items: int,
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    progress: Callable[[float], None],
) -> Tensor:
    """(users + n_items, width) vectors that minimise a loss, by Adam.

    `loss` takes the vectors and (batch,) users, their items, and negatives. It reads vectors by `functional.embedding`:
    gradients of `vectors[rows]` would be summed in an order that depends on threads.
    """
    rng, device = stream(spec.seed, spec.kind), torch_device(spec.device, spec.kind)
    start = rng.normal(0, 0.1, (len(train) + n_items, spec.width)).astype(np.float32)
    vectors = torch.nn.Parameter(torch.from_numpy(start).to(device))
    optimizer = torch.optim.Adam([vectors], lr=spec.learning_rate)
    for epoch in range(spec.epochs if len(train) else 0):
        for triples in triple_batches(train, n_items, spec.batch, rng, device):
            value = loss(vectors, *triples)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        progress((epoch + 1) / spec.epochs)
    return vectors.detach()


def triple_batches(
    train: Sequences, n_items: int, size: int, rng: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield every event once, in random order, with a random negative: (batch,) int64 rows, items, negatives.

    Negatives are drawn uniformly from all items; an item of the row is drawn again, at most ten times.
    """
    row_of_event = train.rows
    pairs = np.unique(row_of_event * n_items + train.items)
    order = rng.permutation(len(train.items))
    for start in range(0, len(order), size):
        events = order[start : start + size]
        rows = row_of_event[events]
        negatives = rng.integers(0, n_items, len(events))
        for _ in range(10):
            positive = np.flatnonzero(_contains(pairs, rows * n_items + negatives))
            if not len(positive):
                break
            negatives[positive] = rng.integers(0, n_items, len(positive))
        triple = rows, train.items[events].astype(np.int64), negatives
        yield tuple(torch.from_numpy(part).to(device) for part in triple)  # type: ignore[misc]


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    position = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[position] == keys


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
