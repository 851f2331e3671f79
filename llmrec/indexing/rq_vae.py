"""RQ-VAE: an auto-encoder whose middle is quantized level by level, trained as a whole.

Source: LC-Rec (Zheng et al. 2024, arXiv 2311.09049, eqs. 1 to 5) and its code; van den Oord et al. 2017 for the
straight-through gradient; Lee et al. 2022 for residual levels. Codebooks start from k-means of the untrained encoder's
output; on the last level items are spread evenly by Sinkhorn while training; a code that nobody used for an epoch is
moved to a vector that its level explains badly.
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
from llmrec.indexing.kmeans import check_count, check_dim, kmeans
from llmrec.indexing.separate import plan
from llmrec.seed import stream

HIDDEN, LATENT = (512, 256, 128, 64), 32  # LC-Rec begins at 2048, for vectors of 4096 numbers
COMMIT, BATCH, RATE = 0.25, 1024, 1e-3
STILL, PATIENCE = 0.001, 50  # converged: the validation error fell by less than this share in so many epochs


@dataclass(frozen=True)
class Encoder(Quantizer):
    """A fitted RQ-VAE, of which coding needs the encoder and the codebooks.

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
        """Numbers of a vector."""
        return int(self.weights[0].shape[1])

    def latent(self, vectors: np.ndarray) -> np.ndarray:
        """(items, LATENT) float32 what the encoder makes of (items, dim) vectors."""
        check_dim(vectors, self.dim)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            vectors = (vectors if number == 0 else np.maximum(vectors, 0)) @ weight.T + bias
        return np.ascontiguousarray(vectors, np.float32)

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(items, levels) int32 nearest codes, level by level, and (items, LATENT) float32 what they leave."""
        return self.books.encode(self.latent(vectors))

    def last(self, vectors: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """(items, width) float32 squared distances of what the levels before leave to every code of a level."""
        return self.books.last(self.latent(vectors), codes, level)

    def arrays(self) -> dict[str, np.ndarray]:
        """Layers and codebooks."""
        layers = {f"weight{n}": weight for n, weight in enumerate(self.weights)}
        layers |= {f"bias{n}": bias for n, bias in enumerate(self.biases)}
        return layers | self.books.arrays()

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Encoder:
        """From what `arrays` gave."""
        depth = sum(name.startswith("weight") for name in arrays)
        weights = [arrays[f"weight{n}"] for n in range(depth)]
        return cls(weights, [arrays[f"bias{n}"] for n in range(depth)], Codebooks(arrays["centroids"]))


class Network(nn.Module):
    """Encoder, codebooks, decoder."""

    def __init__(self, dim: int, levels: int, width: int) -> None:
        super().__init__()
        sizes = [dim, *(size for size in HIDDEN if size < dim), min(LATENT, dim)]
        self.encoder, self.decoder = _layers(sizes), _layers(sizes[::-1])
        self.books = nn.Parameter(torch.zeros(levels, width, sizes[-1]))

    def quantize(self, latent: Tensor, even: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Codes of (batch, LATENT), level by level; `even` spreads the last level by Sinkhorn.

        Returns:
            (batch, LATENT) the sum of the chosen codes, with the gradient of `latent`; (batch, levels) codes; the loss
            of codebooks and commitment.
        """
        residual, chosen, losses = latent, [], []
        for level, book in enumerate(self.books):
            distances = torch.cdist(residual, book).square().detach()
            last = even and level == len(self.books) - 1
            codes = plan(distances).argmax(1) if last else distances.argmin(1)
            picked = book[codes]
            losses.append(functional.mse_loss(picked, residual.detach()))
            losses[-1] = losses[-1] + COMMIT * functional.mse_loss(residual, picked.detach())
            residual = residual - picked.detach()
            chosen.append(codes)
        return latent - residual.detach(), torch.stack(chosen, 1), torch.stack(losses).mean()

    def error(self, vectors: Tensor) -> float:
        """Mean squared error of the decoder's output for (items, dim) vectors, coded as new items are."""
        with torch.no_grad():
            return float(functional.mse_loss(self.decoder(self.quantize(self.encoder(vectors), False)[0]), vectors))


def fit(vectors: np.ndarray, levels: int, width: int, seed: int, epochs: int) -> tuple[Encoder, dict[str, Any]]:
    """Train until the error of held-out items stays as it is, or for so many epochs.

    Args:
        vectors: (items, dim) float32.
        levels, width: of the codebooks.
        seed: of weights, batches and what is held out: a twentieth of the items, where there are two hundred.
        epochs: at most.

    Returns:
        What codes items, and facts: epochs, whether it converged, errors of held-out items.

    Raises:
        CodeError: fewer items than codes of a level.
    """
    check_count(len(vectors), width)
    rng = stream(seed, "rq-vae")
    order = rng.permutation(len(vectors))
    held = len(vectors) // 20 if len(vectors) >= 200 else 0
    whole = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    train, valid = whole[order[held:]], whole[order[:held]] if held else whole
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = Network(vectors.shape[1], levels, width)
        _start(network, train, seed)
        errors = _train(network, train, valid, epochs, rng)
        error = network.error(whole)
    facts = {"epochs": len(errors), "converged": _still(errors), "held-out error": round(errors[-1], 6)}
    facts["error"] = round(error, 6)
    return _frozen(network), facts | {"variance": round(float(valid.var(0, unbiased=False).mean()), 6)}


def _train(network: Network, train: Tensor, valid: Tensor, epochs: int, rng: np.random.Generator) -> list[float]:
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    errors: list[float] = []
    for _ in range(epochs):
        use = torch.zeros(network.books.shape[:2], dtype=torch.long)
        order = torch.from_numpy(rng.permutation(len(train)))
        for rows in order.split(batch_size(len(train))):
            batch = train[rows]
            quantized, codes, loss = network.quantize(network.encoder(batch), even=True)
            loss = functional.mse_loss(network.decoder(quantized), batch) + loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            for level, column in enumerate(codes.T):
                use[level] += torch.bincount(column, minlength=use.shape[1])
        _revive(network, use, train[order[:BATCH]], rng)
        errors.append(network.error(valid))
        if _still(errors):
            break
    return errors


def batch_size(items: int) -> int:
    """Items of a step: few enough that an epoch of a small catalogue has sixteen steps."""
    return max(32, min(BATCH, items // 16))


def _still(errors: list[float]) -> bool:
    """Whether the best error of the last epochs is hardly below the best before them."""
    if len(errors) <= PATIENCE:
        return False
    return min(errors[-PATIENCE:]) > (1 - STILL) * min(errors[:-PATIENCE])


def _start(network: Network, vectors: Tensor, seed: int) -> None:
    """k-means of the encoder's output, level by level."""
    with torch.no_grad():
        residual = network.encoder(vectors).numpy().copy()
        for level in range(len(network.books)):
            book = kmeans(residual, network.books.shape[1], seed % 2**31 + level, plus_plus=True)
            network.books[level] = torch.from_numpy(book)
            residual -= book[torch.cdist(torch.from_numpy(residual), torch.from_numpy(book)).argmin(1).numpy()]


def _revive(network: Network, use: Tensor, batch: Tensor, rng: np.random.Generator) -> None:
    """Put codes that nobody used where what their level has to explain lies, at random items of a batch."""
    if (use > 0).all():
        return
    with torch.no_grad():
        residual = network.encoder(batch)
        for level, book in enumerate(network.books):
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


def _frozen(network: Network) -> Encoder:
    linear = [layer for layer in network.encoder if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().numpy().copy() for layer in linear]
    biases = [layer.bias.detach().numpy().copy() for layer in linear]
    return Encoder(weights, biases, Codebooks(network.books.detach().numpy().copy()))
