"""RQ-VAE: an auto-encoder with a residual quantizer in the middle, trained as a whole.

Source: LC-Rec (Zheng et al. 2024, arXiv 2311.09049, eqs. 1 to 5) and its code; van den Oord et al. 2017 for the
straight-through gradient; Lee et al. 2022 for residual levels. Codebooks start from k-means of the untrained encoder's
output; in training, Sinkhorn spreads the items evenly over the last level; a code that was unused for an epoch moves to
a residual of a random item.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.indexing.codebooks import Codebooks
from llmrec.indexing.codes import Quantizer
from llmrec.indexing.collisions import transport_plan
from llmrec.indexing.kmeans import check_count, check_dim, kmeans
from llmrec.seed import stream

HIDDEN, LATENT = (512, 256, 128, 64), 32  # LC-Rec begins at 2048, for vectors of 4096 numbers
COMMIT, BATCH, RATE = 0.25, 1024, 1e-3
TOLERANCE, PATIENCE = 0.001, 50  # converged: the validation error fell by less than this share in so many epochs


@dataclass(frozen=True)
class RqVae(Quantizer):
    """A fitted RQ-VAE: the encoder and the codebooks.

    Attributes:
        weights: per layer (out, in) float32.
        biases: per layer (out,) float32.
        books: codebooks over the encoder's output.
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    books: Codebooks

    @property
    def dim(self) -> int:
        """See `Quantizer`."""
        return int(self.weights[0].shape[1])

    def latent(self, vectors: np.ndarray) -> np.ndarray:
        """(items, LATENT) float32 output of the encoder for (items, dim) vectors."""
        check_dim(vectors, self.dim)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            vectors = (vectors if number == 0 else np.maximum(vectors, 0)) @ weight.T + bias
        return np.ascontiguousarray(vectors, np.float32)

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(items, levels) int32 nearest codes, level by level, and (items, LATENT) float32 residuals."""
        return self.books.encode(self.latent(vectors))

    def level_distances(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances of the residuals before a level to its codes."""
        return self.books.level_distances(self.latent(vectors), codes, level)

    def arrays(self) -> dict[str, np.ndarray]:
        """Layers and codebooks."""
        layers = {f"weight{n}": weight for n, weight in enumerate(self.weights)}
        layers |= {f"bias{n}": bias for n, bias in enumerate(self.biases)}
        return layers | self.books.arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> RqVae:
        """Restore it from `arrays`."""
        depth = sum(name.startswith("weight") for name in arrays)
        weights = [arrays[f"weight{n}"] for n in range(depth)]
        return cls(weights, [arrays[f"bias{n}"] for n in range(depth)], Codebooks(arrays["centroids"]))


class RqVaeModule(nn.Module):
    """Encoder, codebooks and decoder, for training."""

    def __init__(self, dim: int, levels: int, width: int) -> None:
        super().__init__()
        sizes = [dim, *(size for size in HIDDEN if size < dim), min(LATENT, dim)]
        self.encoder, self.decoder = _layers(sizes), _layers(sizes[::-1])
        self.books = nn.Parameter(torch.zeros(levels, width, sizes[-1]))

    def quantize(self, latent: Tensor, balance: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize (batch, LATENT) level by level; `balance` spreads the last level by Sinkhorn.

        Returns:
            (batch, LATENT) sum of the chosen codes, with a straight-through gradient; (batch, levels) codes; the
            codebook and commitment loss.
        """
        residual, chosen, losses = latent, [], []
        for level, book in enumerate(self.books):
            distances = torch.cdist(residual, book).square().detach()
            last = balance and level == len(self.books) - 1
            codes = transport_plan(distances).argmax(1) if last else distances.argmin(1)
            picked = book[codes]
            losses.append(functional.mse_loss(picked, residual.detach()))
            losses[-1] = losses[-1] + COMMIT * functional.mse_loss(residual, picked.detach())
            residual = residual - picked.detach()
            chosen.append(codes)
        return latent - residual.detach(), torch.stack(chosen, 1), torch.stack(losses).mean()

    def error(self, vectors: Tensor) -> float:
        """Mean squared reconstruction error of (items, dim) vectors, quantized as at inference."""
        with torch.no_grad():
            return float(functional.mse_loss(self.decoder(self.quantize(self.encoder(vectors), False)[0]), vectors))


def fit(vectors: np.ndarray, levels: int, width: int, seed: int, epochs: int) -> tuple[RqVae, dict[str, Any]]:
    """Train until the held-out error stops falling, or for the given epochs.

    A twentieth of the (items, dim) float32 vectors is held out, if there are at least 200.

    Returns:
        The quantizer, and facts: epochs, whether it converged, held-out errors.

    Raises:
        CodeError: fewer items than codes of a level.
    """
    check_count(len(vectors), width)
    rng = stream(seed, "rq-vae")
    order = rng.permutation(len(vectors))
    held_out = len(vectors) // 20 if len(vectors) >= 200 else 0
    whole = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    train, valid = whole[order[held_out:]], whole[order[:held_out]] if held_out else whole
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        module = RqVaeModule(vectors.shape[1], levels, width)
        _init_books(module, train, seed)
        errors = _train(module, train, valid, epochs, rng)
        error = module.error(whole)
    facts = {"epochs": len(errors), "converged": _converged(errors), "held-out error": round(errors[-1], 6)}
    facts["error"] = round(error, 6)
    return _to_quantizer(module), facts | {"variance": round(float(valid.var(0, unbiased=False).mean()), 6)}


def _train(module: RqVaeModule, train: Tensor, valid: Tensor, epochs: int, rng: np.random.Generator) -> list[float]:
    """Train the module; return the held-out error of each epoch."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    errors: list[float] = []
    for _ in range(epochs):
        use = torch.zeros(module.books.shape[:2], dtype=torch.long)
        order = torch.from_numpy(rng.permutation(len(train)))
        for rows in order.split(batch_size(len(train))):
            batch = train[rows]
            quantized, codes, loss = module.quantize(module.encoder(batch), balance=True)
            loss = functional.mse_loss(module.decoder(quantized), batch) + loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for level, column in enumerate(codes.T):
                use[level] += torch.bincount(column, minlength=use.shape[1])
        _revive(module, use, train[order[:BATCH]], rng)
        errors.append(module.error(valid))
        if _converged(errors):
            break
    return errors


def batch_size(items: int) -> int:
    """Items of a step: an epoch of a small catalogue has sixteen steps."""
    return max(32, min(BATCH, items // 16))


def _converged(errors: list[float]) -> bool:
    """Whether the best error of the last PATIENCE epochs is hardly below the best before them."""
    if len(errors) <= PATIENCE:
        return False
    return min(errors[-PATIENCE:]) > (1 - TOLERANCE) * min(errors[:-PATIENCE])


def _init_books(module: RqVaeModule, vectors: Tensor, seed: int) -> None:
    """Initialize the codebooks by residual k-means of the encoder's output."""
    with torch.no_grad():
        residual = module.encoder(vectors).numpy().copy()
        for level in range(len(module.books)):
            book = kmeans(residual, module.books.shape[1], seed % 2**31 + level, init="k-means++")
            module.books[level] = torch.from_numpy(book)
            residual -= book[torch.cdist(torch.from_numpy(residual), torch.from_numpy(book)).argmin(1).numpy()]


def _revive(module: RqVaeModule, use: Tensor, batch: Tensor, rng: np.random.Generator) -> None:
    """Move unused codes to residuals of random items of a batch."""
    if (use > 0).all():
        return
    with torch.no_grad():
        residual = module.encoder(batch)
        for level, book in enumerate(module.books):
            dead = torch.nonzero(use[level] == 0)[:, 0]
            if len(dead):
                book[dead] = residual[torch.from_numpy(rng.integers(0, len(residual), len(dead)))]
            residual = residual - book[torch.cdist(residual, book).argmin(1)]


def _layers(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
        nn.init.xavier_normal_(layers[-2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def _to_quantizer(module: RqVaeModule) -> RqVae:
    linear = [layer for layer in module.encoder if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().numpy().copy() for layer in linear]
    biases = [layer.bias.detach().numpy().copy() for layer in linear]
    return RqVae(weights, biases, Codebooks(module.books.detach().numpy().copy()))
