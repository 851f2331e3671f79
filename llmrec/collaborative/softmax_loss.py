"""Cross-entropy over a whole catalogue, some rows at a time, its gradients computed in the forward pass.

The ordinary loss reads and writes the scores of a batch, (rows, items) in float32, half a dozen times; a few rows of
them stay in the cache, and only the gradients of states and weights are kept.
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
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: torch.dtype
    ) -> Tensor:
        """Loss and, since they are cheap here, all gradients."""
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
        """The gradients that `forward` computed, times the output's."""
        scale = grad_outputs[0] / len(ctx.saved_tensors[0])
        return *(scale * gradient for gradient in ctx.saved_tensors), None, None


def softmax_loss(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: torch.dtype = torch.bfloat16
) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        states: (rows, width) float32, at least one row.
        weight: (items, width) float32.
        bias: (items,) float32.
        targets: (rows,) int64 item of each row.
        precision: of the products; sums are in float32.
    """
    return SoftmaxLoss.apply(states, weight, bias, targets, precision)
