"""Uniform mapping: items spread over codes so that every code gets the same share (Sinkhorn and Knopp).

Source: LC-Rec (Zheng et al. 2024, arXiv 2311.09049), section III-B, and its `sinkhorn_algorithm`. We scale rows
and columns of a kernel that is written once, in float64: 50 rounds of 1,024 items and 256 codes take milliseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON, ROUNDS = 0.003, 50
_LEAST = 1e-290  # nothing is divided by less


def plan(distances: Tensor, epsilon: float = EPSILON, rounds: int = ROUNDS) -> Tensor:
    """Entropic optimal transport between items and codes, both with even shares.

    Args:
        distances: (items, codes); only their order of size matters, they are centred to [-1, 1].
        epsilon: how sharp; smaller is nearer to a one-to-one mapping.
        rounds: of scaling columns, then rows.

    Returns:
        (items, codes) float64; rows sum to 1, columns to items / codes when it has converged.
    """
    distances = distances.double()
    middle = (distances.max() + distances.min()) / 2
    spread = (distances.max() - middle + 1e-5).abs()
    table = (distances - middle) / spread / epsilon
    kernel = (table.min(dim=1, keepdim=True).values - table).exp()  # a factor a row is scaled away anyway
    items, codes = kernel.shape
    row = torch.ones(items, dtype=torch.float64)
    for _ in range(rounds):
        column = items / codes / (row @ kernel).clamp(min=_LEAST)
        row = 1 / (kernel @ column).clamp(min=_LEAST)
    return row[:, None] * kernel * column
