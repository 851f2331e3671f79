"""Contrastive alignment: vectors of text and of behaviour mapped to where those of one item lie near each other.

Source: PRORec / UNGER (arXiv 2502.06269), stage one: InfoNCE between the two over the items of a batch. There it is
learnt beside next-item prediction, which keeps what behaviour says. Here the teacher's vectors are ready, and two
linear maps are learnt that must also give both sides back (a tied linear auto-encoder each, weighed by KEEP): without
that, the maps tell single items apart by their noise and lose the groups that items share.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from llmrec.seed import stream

WIDTH, STEPS, BATCH, RATE, TEMPERATURE, KEEP = 64, 300, 512, 5e-3, 0.1, 10.0


def align(text: np.ndarray, behaviour: np.ndarray, met: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Learn the two maps.

    Args:
        text: (items, dim) float32.
        behaviour: (items, width) float32.
        met: (items,) bool, items whose behaviour was learnt and not lent.
        seed: of the start and the batches.

    Returns:
        `of_text` (dim, WIDTH) and `of_behaviour` (width, WIDTH) float32.
    """
    draw, rows = stream(seed, "align"), np.flatnonzero(met)
    sides = [torch.from_numpy(np.ascontiguousarray(side, np.float32)) for side in (text, behaviour)]
    starts = [draw.normal(0, side.shape[1] ** -0.5, (side.shape[1], WIDTH)).astype(np.float32) for side in sides]
    maps = [torch.nn.Parameter(torch.from_numpy(start)) for start in starts]
    optimiser = torch.optim.Adam(maps, lr=RATE)
    for _ in range(STEPS):
        batch = torch.from_numpy(draw.choice(rows, min(BATCH, len(rows)), replace=False))
        given = [side[batch] for side in sides]
        mapped = [side @ m for side, m in zip(given, maps, strict=True)]
        loss = info_nce(*(functional.normalize(side, dim=1) for side in mapped))
        for side, low, m in zip(given, mapped, maps, strict=True):
            loss = loss + KEEP * (side - low @ m.T).square().sum() / side.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {"of_text": maps[0].detach().numpy(), "of_behaviour": maps[1].detach().numpy()}


def info_nce(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Both ways: each row of (items, dim) unit vectors must find its own among the other's, in nats."""
    scores, own = one @ other.T / TEMPERATURE, torch.arange(len(one))
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
