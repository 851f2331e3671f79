"""SASRec with the full softmax: a causal transformer over item vectors, scored against the whole catalogue.

Source: Kang and McAuley 2018, arXiv 1808.09781. As published it learns from one sampled negative by binary
cross-entropy; with the softmax over all items it is far stronger (Klenitskiy and Vasilev 2023, arXiv 2309.07602), so
that is the bar. We differ in norms before blocks, a mark that opens each history (so that an empty one has an answer),
and a cosine schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.collaborative.linear import canonical
from llmrec.collaborative.softmax_loss import softmax_loss
from llmrec.contracts import Sequences
from llmrec.seed import stream

IGNORED = -100


class SasRec:
    """Scores every item as the next one of a history.

    Args:
        width: numbers of a vector.
        layers, heads: of the transformer.
        window: last items of a history that are read.
        epochs: passes over the training rows.
        batch: rows of a step.
        learning_rate: the highest, of AdamW; it climbs for a twentieth of the steps, then falls along a cosine.
        dropout: of vectors, attention and blocks.
        decay: of weights.
        seed: of the start, the order and the dropout.

    Attributes:
        network: set by `fit`.
    """

    network: Network

    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        heads: int = 2,
        window: int = 50,
        epochs: int = 60,
        batch: int = 256,
        learning_rate: float = 2e-3,
        dropout: float = 0.5,
        decay: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.width, self.layers, self.heads, self.window = width, layers, heads, window
        self.epochs, self.batch, self.learning_rate = epochs, batch, learning_rate
        self.dropout, self.decay, self.seed = dropout, decay, seed

    def fit(self, train: Sequences, n_items: int) -> Self:
        """Learn from every item of every row; returns itself. torch's global generator is left as it was."""
        train, rng = canonical(train), stream(self.seed, "sasrec")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = Network(n_items, self.width, self.layers, self.heads, self.window, self.dropout)
            optimiser = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=self.decay)
            total = max(1, self.epochs * -(-len(train) // self.batch))
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, self.learning_rate, total_steps=total + 1, pct_start=0.05, cycle_momentum=False
            )
            self.network.train()
            for _ in range(self.epochs):
                for rows in _shuffled(len(train), self.batch, rng):
                    loss = self.network.loss(*self._padded([train[int(row)] for row in rows]))
                    optimiser.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                    optimiser.step()
                    schedule.step()
        self.network.eval()
        return self

    @torch.inference_mode()
    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32 logits."""
        scores = np.empty((len(histories), self.network.n_items), dtype=np.float32)
        for start in range(0, len(histories), self.batch):
            rows = [histories[row][-self.window :] for row in range(start, min(start + self.batch, len(histories)))]
            # An item to come stands for what is not known yet, so that the place before it sees the whole history.
            read, _ = self._padded([np.append(row, 0) for row in rows])
            last = self.network(read)[torch.arange(len(rows)), torch.tensor([len(row) for row in rows])]
            scores[start : start + len(rows)] = self.network.logits(last).numpy()
        return scores

    def _padded(self, rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """What is read (the mark, all items but the last) and what is wanted, (rows, places), padded at the end."""
        kept = [row[-self.window - 1 :] for row in rows]
        longest = max(map(len, kept))
        read, wanted = np.zeros((len(kept), longest), np.int64), np.full((len(kept), longest), IGNORED)
        read[:, 0] = self.network.n_items
        for place, row in enumerate(kept):
            read[place, 1 : len(row)] = row[:-1]
            wanted[place, : len(row)] = row
        return torch.from_numpy(read), torch.from_numpy(wanted)


class Network(nn.Module):
    """The transformer; item `n_items` is the mark that opens a history."""

    def __init__(self, n_items: int, width: int, layers: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, width)
        self.places = nn.Embedding(window + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(n_items))
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, read: Tensor) -> Tensor:
        """(rows, places) item numbers → (rows, places, width); a place sees itself and what comes before."""
        states = self.dropout(self.items(read) + self.places.weight[: read.shape[1]])
        for block in self.blocks:
            states = block(states)
        return self.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """(…, width) → (…, n_items)."""
        return functional.linear(states, self.items.weight[: self.n_items], self.bias)

    def loss(self, read: Tensor, wanted: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the places that want an item; the output meets only those."""
        supervised = wanted != IGNORED
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self(read)[supervised].float()
        return softmax_loss(states, self.items.weight[: self.n_items], self.bias, wanted[supervised])


class Block(nn.Module):
    """Attention and a feed-forward network, each after a norm and beside a short cut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(rows, places, width), causal."""
        rows, places, width = states.shape
        parts = self.project(self.before_attention(states)).view(rows, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        states = states + self.dropout(self.join(seen.transpose(1, 2).reshape(rows, places, width)))
        return states + self.dropout(self.feed(self.before_feed(states)))


def _shuffled(rows: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(rows)
    return (order[start : start + size] for start in range(0, rows, size))
