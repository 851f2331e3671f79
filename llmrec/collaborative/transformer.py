"""The causal transformer of sequence models: item vectors in, states out, one vector table for both ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.collaborative.softmax_loss import softmax_loss

IGNORED = -100


class Network(nn.Module):
    """The transformer; item `n_items` is the start token that opens a history."""

    def __init__(self, n_items: int, width: int, layers: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, width)
        self.positions = nn.Embedding(window + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(n_items))
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """(rows, positions) item numbers → (rows, positions, width); a position reads itself and what comes before."""
        states = self.dropout(self.items(inputs) + self.positions.weight[: inputs.shape[1]])
        for block in self.blocks:
            states = block(states)
        return self.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """(…, width) → (…, n_items)."""
        return functional.linear(states, self.items.weight[: self.n_items], self.bias)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the positions with a target; the output meets only those."""
        supervised = targets != IGNORED
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            states = self(inputs)[supervised].float()
        return softmax_loss(states, self.items.weight[: self.n_items], self.bias, targets[supervised])


class Block(nn.Module):
    """Attention and a feed-forward network, each after a norm and with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(rows, positions, width), causal."""
        rows, positions, width = states.shape
        projected = self.project_in(self.attention_norm(states))
        heads = projected.view(rows, positions, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        rate = self.rate if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        states = states + self.dropout(self.project_out(attended.transpose(1, 2).reshape(rows, positions, width)))
        return states + self.dropout(self.feed(self.feed_norm(states)))
