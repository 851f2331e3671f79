"""Rows of new tokens: room for them in a model, and the values that training finds in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrec.errors import ModelError

Initial = Callable[[Tensor, Tensor], Tensor]  # (base rows, width), (tokens, width) noise → (tokens, width)
RIDGE = 0.01  # penalty, as a share of the mean eigenvalue of the quantized vectors' scatter


@dataclass(frozen=True)
class Known:
    """What is known of the items that new tokens stand for.

    Attributes:
        codes: (items, levels) int, the new tokens of each item; a shorter code is padded by -1.
        levels: (tokens,) int, the level of each new token; -1 for one that is no part of a code.
        texts: (items,) model tokens of each item's text.
        centroids: (tokens, dim) float32, not a number where a token has none; None where the quantizer keeps none.
        vectors: (items, dim) float32, what was quantized; empty where nobody asks for it.
    """

    codes: np.ndarray
    levels: np.ndarray
    texts: list[list[int]]
    centroids: np.ndarray | None
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def grow(model: PreTrainedModel, rows: int, new: np.ndarray, seed: int, initial: Initial | None = None) -> None:
    """Give a model embedding rows for new tokens, on the input and the output side; old rows stay bit for bit.

    Args:
        model: changed in place; tied sides stay tied. A new token's bias, where the head has any, is the mean bias.
        rows: embedding rows it needs, padding included.
        new: (tokens,) ids of the new tokens, all above the old ones.
        seed: of the noise that tells them apart.
        initial: where the rows start; `mean` otherwise.
    """
    first, old = int(new.min()), sides(model)["input"].shape[0]
    bias = getattr(model.get_output_embeddings(), "bias", None)
    usual = None if bias is None else bias.detach()[:first].mean()
    model.resize_token_embeddings(max(rows, old), mean_resizing=False)
    begin(model, new, seed, initial or mean)
    if usual is not None:
        model.get_output_embeddings().bias.data[torch.from_numpy(new)] = usual


def begin(model: PreTrainedModel, new: np.ndarray, seed: int, initial: Initial) -> None:
    """Set the rows of new tokens, on both sides; arguments are those of `grow`."""
    for weight in sides(model).values():
        noise = torch.randn(len(new), weight.shape[1], generator=torch.Generator().manual_seed(seed % 2**63))
        with torch.no_grad():
            values = initial(weight[: int(new.min())].float(), noise)
            weight[torch.from_numpy(new)] = values.to(weight.dtype)


def sides(model: Any) -> dict[str, Tensor]:
    """Embedding rows by side, `input` and `output`; `input` alone where the sides are tied.

    Returns:
        Side → (vocabulary, width).
    """
    found = {"input": model.get_input_embeddings().weight, "output": model.get_output_embeddings().weight}
    return {"input": found["input"]} if found["input"] is found["output"] else found


def initial(name: str, known: Callable[[], Known]) -> Initial:
    """How new rows start, by the name that `model.init_tokens` gives it.

    Args:
        name: mean, text, centroids, vectors or random.
        known: what is known of the items; called only where it is needed.

    Raises:
        ModelError: centroids, and the catalogue has none.
    """
    if name in ("mean", "random"):
        return {"mean": mean, "random": random}[name]
    make, about = {"text": text, "centroids": centroids, "vectors": vectors}[name], known()
    if name == "centroids" and about.centroids is None:
        raise ModelError(
            "model.init_tokens: centroids, but the catalogue keeps no codebooks to take them from. "
            "Set it to text, or choose an indexing.method with codebooks, such as rq-kmeans."
        )
    return lambda base, noise: make(base, noise, about)


def mean(base: Tensor, noise: Tensor) -> Tensor:
    """Near the mean of the base's rows, half their standard deviation away from it.

    Args:
        base: (old tokens, width) rows of the base.
        noise: (tokens, width) standard normal.

    Returns:
        (tokens, width).
    """
    return base.mean(0) + 0.5 * base.std(0) * noise


def random(base: Tensor, noise: Tensor) -> Tensor:
    """As `mean` takes and gives them: in any direction, as long as the base's rows (root mean square)."""
    return noise / noise.norm(dim=1, keepdim=True) * _rms(base)


def text(base: Tensor, noise: Tensor, known: Known) -> Tensor:
    """The mean over a token's items of the mean row of the item's text; a token without items starts as in `mean`.

    Means lie close together, so each level is spread about the base's mean row as widely as the base's rows are.

    Args:
        base, noise: as in `mean`.
        known: texts and codes.

    Returns:
        (tokens, width).
    """
    means, codes = _text_rows(base, known.texts), torch.from_numpy(known.codes.astype(np.int64))
    total, count = torch.zeros_like(noise), torch.zeros(len(noise), 1)
    for level in codes.T:
        here = level >= 0  # shorter codes are padded by -1
        total.index_add_(0, level[here], means[here])
        count.index_add_(0, level[here], torch.ones(int(here.sum()), 1))
    return _spread(total / count, base, noise, known.levels)


def centroids(base: Tensor, noise: Tensor, known: Known) -> Tensor:
    """A token's centroid, through the ridge regression from items' quantized vectors to the mean rows of their texts.

    A quantized vector is the sum of its code's centroids, so the map of a sum is the sum of the maps. Spread as in
    `text`; a token without a centroid (the separating level, spares) starts as in `mean`.

    Args:
        base, noise: as in `mean`.
        known: centroids, texts and codes.

    Returns:
        (tokens, width).
    """
    places = torch.from_numpy(known.centroids)
    quantized = places.nan_to_num()[torch.from_numpy(known.codes.astype(np.int64))].sum(1)
    scatter = float((quantized - quantized.mean(0)).square().sum()) / quantized.shape[1]
    onto = ridge(quantized, _text_rows(base, known.texts), max(RIDGE * scatter, 1e-6))
    return _spread(places @ onto, base, noise, known.levels)


def vectors(base: Tensor, noise: Tensor, known: Known) -> Tensor:
    """What the vectors of a token's items have in common beyond the levels before it, along their principal axes.

    Level by level the mean of what is left of the vectors, which is then taken off them: with residual quantizers the
    centroid, with a token for each item its own vector. Spread as in `text`; a token without items starts as in `mean`.

    Args:
        base, noise: as in `mean`.
        known: vectors and codes.

    Returns:
        (tokens, width).
    """
    left, found = principal(torch.from_numpy(known.vectors), base.shape[1]), torch.full_like(noise, torch.nan)
    for codes in torch.from_numpy(known.codes.astype(np.int64)).T:
        here = codes >= 0  # shorter codes are padded by -1
        total, count = torch.zeros_like(noise), torch.zeros(len(noise), 1)
        total.index_add_(0, codes[here], left[here])
        count.index_add_(0, codes[here], torch.ones(int(here.sum()), 1))
        means, used = total / count, count[:, 0] > 0
        left[here] -= means[codes[here]]
        found[used] = means[used]
    return _spread(found, base, noise, known.levels)


def principal(vectors: Tensor, width: int) -> Tensor:
    """(items, dim) about their mean, along their `width` principal axes; zeros behind where there are fewer."""
    centred = (vectors - vectors.mean(0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # in rising order
    axes = axes.flip(1)[:, :width]
    axes *= axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # eigenvectors leave their signs open
    return nn.functional.pad((centred @ axes).float(), (0, max(0, width - axes.shape[1])))


def ridge(given: Tensor, wanted: Tensor, penalty: float) -> Tensor:
    """Ridge regression with an unpenalised intercept, in closed form.

    Args:
        given: (n, dim) float.
        wanted: (n, width) float.
        penalty: times the squared norm of the map, beside the sum of squared errors.

    Returns:
        (dim, width) the linear map, in the type of `given`.
    """
    x, y = given.double() - given.double().mean(0), wanted.double() - wanted.double().mean(0)
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y).to(given.dtype)


def _text_rows(base: Tensor, texts: list[list[int]]) -> Tensor:
    """(texts, width) mean row of each text's tokens."""
    kept = [[token for token in tokens if token < len(base)] for tokens in texts]
    starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in kept])[:-1]])
    flat = torch.tensor([token for tokens in kept for token in tokens], dtype=torch.long)
    return nn.functional.embedding_bag(flat, base, torch.from_numpy(starts.astype(np.int64)), mode="mean")


def _spread(rows: Tensor, base: Tensor, noise: Tensor, levels: np.ndarray) -> Tensor:
    """Move each level's rows about the base's mean row, as far from it as the base's; rows of no number are drawn."""
    found, spread = mean(base, noise), _rms(base - base.mean(0))
    for level in np.unique(levels):
        here = torch.from_numpy(levels == level) & rows.isfinite().all(1)
        if here.any():
            apart = rows[here] - rows[here].mean(0)
            found[here] = base.mean(0) + apart * (spread / _rms(apart).clamp(min=1e-12))
    return found


def _rms(rows: Tensor) -> Tensor:
    """Root mean square of the rows' lengths."""
    return rows.norm(dim=1).square().mean().sqrt()
