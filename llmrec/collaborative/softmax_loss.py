"""Cross-entropy over a whole catalogue, some rows at a time, its gradient worked out on the way.

The scores of a batch, (rows, items) in float32, are read and written half a dozen times by the ordinary loss; a few
rows of them stay in the cache, and only the gradients of states and weights are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 256


class SoftmaxLoss(torch.autograd.Function):
    """Mean cross-entropy in nats of states · weightᵀ + bias; see `softmax_loss`."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, wanted: Tensor, precision: torch.dtype
    ) -> Tensor:
        """Loss and, since they are cheap here, all gradients."""
        low = weight.to(precision)
        loss, of_states = states.new_zeros(()), torch.empty_like(states)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(states), ROWS):
            rows, target = states[start : start + ROWS].to(precision), wanted[start : start + ROWS, None]
            scores = (rows @ low.T).float() + bias
            total = scores.logsumexp(1, keepdim=True)
            loss += (total - scores.gather(1, target)).sum()
            share = scores.sub_(total).exp_()
            share.scatter_add_(1, target, torch.full_like(target, -1, dtype=share.dtype))
            slope = share.to(precision)
            of_states[start : start + ROWS] = slope @ low
            of_weight += slope.T @ rows
            of_bias += share.sum(0)
        ctx.save_for_backward(of_states, of_weight, of_bias)
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of before, times what comes from above."""
        each = slopes[0] / len(ctx.saved_tensors[0])
        return *(kept * each for kept in ctx.saved_tensors), None, None


def softmax_loss(
    states: Tensor, weight: Tensor, bias: Tensor, wanted: Tensor, precision: torch.dtype = torch.bfloat16
) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        states: (rows, width) float32, at least one row.
        weight: (items, width) float32.
        bias: (items,) float32.
        wanted: (rows,) int64 item of each row.
        precision: of the products; sums are in float32.
    """
    return SoftmaxLoss.apply(states, weight, bias, wanted, precision)
