"""The causal transformer of sequence models, and its loss: cross-entropy over a whole catalogue.

The ordinary loss reads and writes the scores of a batch, (rows, items) in float32, half a dozen times. Here a few rows
of them at a time stay in the cache, and only the gradients of states and weights, computed in the forward pass, are
kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100
ROWS = 256  # of scores at a time


class SequenceNetwork(nn.Module):
    """Item vectors in, states out, one vector table for both ends; item `n_items` is the token that opens a history."""

    def __init__(self, n_items: int, width: int, layers: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, width)
        self.positions = nn.Embedding(window + 1, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(layers))
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


class TransformerBlock(nn.Module):
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


class SoftmaxLoss(torch.autograd.Function):
    """`softmax_loss`, with the gradients of states, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: torch.dtype
    ) -> Tensor:
        low = weight.to(precision)
        loss, grad_states = states.new_zeros(()), torch.empty_like(states)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(states), ROWS):
            rows, target = states[start : start + ROWS].to(precision), targets[start : start + ROWS, None]
            logits = (rows @ low.T).float() + bias
            total = logits.logsumexp(1, keepdim=True)
            loss += (total - logits.gather(1, target)).sum()
            grad_logits = logits.sub_(total).exp_()
            grad_logits.scatter_add_(1, target, torch.full_like(target, -1, dtype=grad_logits.dtype))
            slope = grad_logits.to(precision)
            grad_states[start : start + ROWS] = slope @ low
            grad_weight += slope.T @ rows
            grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0] / len(ctx.saved_tensors[0])
        return *(scale * gradient for gradient in ctx.saved_tensors), None, None


def softmax_loss(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: torch.dtype = torch.bfloat16
) -> Tensor:
    """Mean cross-entropy in nats of states · weightᵀ + bias.

    Args:
        states: (rows, width) float32, at least one row.
        weight: (items, width) float32.
        bias: (items,) float32.
        targets: (rows,) int64 item of each row.
        precision: of the products; sums are in float32.
    """
    return SoftmaxLoss.apply(states, weight, bias, targets, precision)
