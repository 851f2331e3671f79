"""MiniOneRec's RQ-VAE, as its `rq/rqvae.py` and `rq/generate_indices.py` set it up, on vectors of ours."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from llmrec.errors import RunError
from llmrec.indexing.codes import group_equal
from llmrec.indexing.rq_vae import HIDDEN, LATENT, RATE, batch_size

_ROUNDS, _EPSILON = 20, 0.003  # of its telling twins apart


class Peer(NamedTuple):
    """What it made of the vectors.

    Attributes:
        codes: (items, levels) int, nearest codes.
        apart: (items, levels) int, after it has told twins apart.
        error: mean squared error of reconstruction.
        seconds: of training and coding, and of telling apart.
    """

    codes: np.ndarray
    apart: np.ndarray
    error: float
    seconds: tuple[float, float]


def peer_codes(checkout: Path, vectors: np.ndarray, levels: int, width: int, epochs: int) -> Peer:
    """Train it with our sizes of layers and batches, code the vectors and tell twins apart.

    Its own: k-means of the first batch, no Sinkhorn in training, gradients cut at 1. Not its own: a rate that stays the
    same from the first step, where it warms up for fifty epochs of ten thousand.

    Args:
        checkout: of MiniOneRec.
        vectors: (items, dim) float32.
        levels, width: of the codebooks.
        epochs: passes.

    Raises:
        RunError: the checkout has no such code.
    """
    data = torch.from_numpy(vectors)
    begin = perf_counter()
    model = _trained(_model(checkout, vectors.shape[1], levels, width), data, epochs)
    with torch.no_grad():
        told, _, codes = model(data, use_sk=False)
    middle = perf_counter()
    apart = _apart(model, data, codes.numpy())
    seconds = middle - begin, perf_counter() - middle
    return Peer(codes.numpy(), apart, float((told - data).square().mean()), seconds)


def _model(checkout: Path, dim: int, levels: int, width: int) -> Any:
    if not (checkout / "rq" / "models" / "rqvae.py").is_file():
        raise RunError(f"{checkout} has no rq/models/rqvae.py: give --peer a checkout of AkaliKong/MiniOneRec")
    sys.path.insert(0, str(checkout / "rq"))
    try:
        from models.rqvae import RQVAE  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(checkout / "rq"))
    torch.manual_seed(0)
    return RQVAE(
        in_dim=dim,
        num_emb_list=[width] * levels,
        e_dim=min(LATENT, dim),
        layers=[size for size in HIDDEN if size < dim],
        kmeans_init=True,
        sk_epsilons=[0.0] * levels,
        sk_iters=50,
    )


def _trained(model: Any, data: torch.Tensor, epochs: int) -> Any:
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(batch_size(len(data))):
            told, quantized, _ = model(data[rows])
            loss = model.compute_loss(told, quantized, xs=data[rows])[0]
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    return model.eval()


def _apart(model: Any, data: torch.Tensor, codes: np.ndarray) -> np.ndarray:
    """Codes after its rounds of Sinkhorn over each group of twins; some may still collide."""
    codes = codes.copy()
    model.rq.vq_layers[-1].sk_epsilon = _EPSILON
    for _ in range(_ROUNDS):
        group, size = group_equal(codes)
        for twins in np.flatnonzero(size > 1):
            rows = np.flatnonzero(group == twins)
            codes[rows] = model.get_indices(data[torch.from_numpy(rows)], use_sk=True).numpy()
    return codes
