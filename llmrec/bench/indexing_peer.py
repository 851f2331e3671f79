"""MiniOneRec's RQ-VAE, as its `rq/rqvae.py` sets it up, on vectors of ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.errors import RunError
from llmrec.indexing.rq_vae import HIDDEN, LATENT, RATE, batch_size


def peer_codes(checkout: Path, vectors: np.ndarray, levels: int, width: int, epochs: int) -> tuple[np.ndarray, float]:
    """Train it with our sizes of layers and batches, and code the vectors.

    Args:
        checkout: of MiniOneRec.
        vectors: (items, dim) float32.
        levels, width: of the codebooks.
        epochs: passes.

    Returns:
        (items, levels) int codes, and the mean squared error of reconstruction.

    Raises:
        RunError: the checkout has no such code.
    """
    if not (checkout / "rq" / "models" / "rqvae.py").is_file():
        raise RunError(f"{checkout} has no rq/models/rqvae.py: give --peer a checkout of AkaliKong/MiniOneRec")
    sys.path.insert(0, str(checkout / "rq"))
    try:
        from models.rqvae import RQVAE  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(checkout / "rq"))
    torch.manual_seed(0)
    model: Any = RQVAE(
        in_dim=vectors.shape[1],
        num_emb_list=[width] * levels,
        e_dim=min(LATENT, vectors.shape[1]),
        layers=[size for size in HIDDEN if size < vectors.shape[1]],
        kmeans_init=True,
        sk_epsilons=[0.0] * (levels - 1) + [0.003],
        sk_iters=50,
    )
    data, optimiser = torch.from_numpy(vectors), torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(batch_size(len(data))):
            told, quantized, _ = model(data[rows])
            loss = model.compute_loss(told, quantized, xs=data[rows])[0]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        told, _, codes = model(data, use_sk=False)
        return codes.numpy(), float((told - data).square().mean())
