"""Embedding rows of new tokens: resize a model, initialize the rows, and check after training that they moved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrec.errors import ModelError
from llmrec.model.vocabulary import MENTION

Initializer = Callable[[Tensor, Tensor], Tensor]  # (base rows, width), (tokens, width) noise → (tokens, width)
RIDGE = 0.01  # penalty, as a share of the mean eigenvalue of the quantized vectors' scatter


@dataclass(frozen=True)
class ItemInfo:
    """The items of new tokens, for initialization.

    Attributes:
        codes: (items, levels) int, the new tokens of each item, padded at the end by -1.
        levels: (tokens,) int, the level of each new token; -1 for one that is not part of a code.
        texts: (items,) token ids of each item's text.
        centroids: (tokens, dim) float32, NaN for a token without one; None if the quantizer has none.
        vectors: (items, dim) float32 quantized vectors; empty if not needed.
    """

    codes: np.ndarray
    levels: np.ndarray
    texts: list[list[int]]
    centroids: np.ndarray | None
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def resize(model: PreTrainedModel, rows: int, new: np.ndarray, seed: int, initial: Initializer | None = None) -> None:
    """Add embedding rows for new tokens on the input and the output side; old rows stay bit for bit.

    Args:
        model: changed in place; tied sides stay tied. The bias of a new token, if the head has one, is the mean bias.
        rows: number of rows after it, padding included.
        new: (tokens,) ids of the new tokens, all above the old ones.
        seed: of the noise that makes the rows different.
        initial: initial rows; `mean` if None.
    """
    first, old = int(new.min()), embedding_weights(model)["input"].shape[0]
    bias = getattr(model.get_output_embeddings(), "bias", None)
    mean_bias = None if bias is None else bias.detach()[:first].mean()
    model.resize_token_embeddings(max(rows, old), mean_resizing=False)
    init_rows(model, new, seed, initial or mean)
    if mean_bias is not None:
        model.get_output_embeddings().bias.data[torch.from_numpy(new)] = mean_bias


def init_rows(model: PreTrainedModel, new: np.ndarray, seed: int, initial: Initializer) -> None:
    """Set the rows of new tokens on both sides; arguments as for `resize`."""
    for weight in embedding_weights(model).values():
        noise = torch.randn(len(new), weight.shape[1], generator=torch.Generator().manual_seed(seed % 2**63))
        with torch.no_grad():
            values = initial(weight[: int(new.min())].float(), noise)
            weight[torch.from_numpy(new)] = values.to(weight.dtype)


def embedding_weights(model: Any) -> dict[str, Tensor]:
    """(vocabulary, width) embedding rows of the sides `input` and `output`; only `input` if they are tied."""
    sides = {"input": model.get_input_embeddings().weight, "output": model.get_output_embeddings().weight}
    return {"input": sides["input"]} if sides["input"] is sides["output"] else sides


def initializer(name: str, item_info: Callable[[], ItemInfo]) -> Initializer:
    """The initialization of `model.init_tokens`.

    Args:
        name: mean, text, centroids, vectors or random.
        item_info: called only if it is needed.

    Raises:
        ModelError: centroids, and the catalogue has none.
    """
    if name in ("mean", "random"):
        return {"mean": mean, "random": random}[name]
    make, info = {"text": text, "centroids": centroids, "vectors": vectors}[name], item_info()
    if name == "centroids" and info.centroids is None:
        raise ModelError(
            "model.init_tokens: centroids, but the catalogue keeps no codebooks to take them from. "
            "Set it to text, or choose an indexing.method with codebooks, such as rq-kmeans."
        )
    return lambda base, noise: make(base, noise, info)


def mean(base: Tensor, noise: Tensor) -> Tensor:
    """(tokens, width) rows near the mean of the base's rows, half a standard deviation away.

    Args:
        base: (old tokens, width) rows of the base.
        noise: (tokens, width) standard normal.
    """
    return base.mean(0) + 0.5 * base.std(0) * noise


def random(base: Tensor, noise: Tensor) -> Tensor:
    """(tokens, width) rows of random direction, as long as the base's rows (root mean square)."""
    return noise / noise.norm(dim=1, keepdim=True) * _rms(base)


def text(base: Tensor, noise: Tensor, info: ItemInfo) -> Tensor:
    """(tokens, width) mean over a token's items of the mean row of the item's text; `mean` for a token without items.

    Means lie close together, so each level is spread about the base's mean row as widely as the base's rows are.
    """
    rows, codes = _text_rows(base, info.texts), torch.from_numpy(info.codes.astype(np.int64))
    total, count = torch.zeros_like(noise), torch.zeros(len(noise), 1)
    for column in codes.T:
        _add_rows(total, count, column, rows)
    return _spread(total / count, base, noise, info.levels)


def centroids(base: Tensor, noise: Tensor, info: ItemInfo) -> Tensor:
    """(tokens, width) centroids, mapped by ridge regression from quantized vectors to the mean rows of item texts.

    A quantized vector is the sum of its code's centroids, so the map of a sum is the sum of the maps. Spread as in
    `text`; a token without a centroid (deduplication level, reserved) starts as in `mean`.
    """
    points = torch.from_numpy(info.centroids)
    quantized = points.nan_to_num()[torch.from_numpy(info.codes.astype(np.int64))].sum(1)
    scatter = float((quantized - quantized.mean(0)).square().sum()) / quantized.shape[1]
    weights = ridge(quantized, _text_rows(base, info.texts), max(RIDGE * scatter, 1e-6))
    return _spread(points @ weights, base, noise, info.levels)


def vectors(base: Tensor, noise: Tensor, info: ItemInfo) -> Tensor:
    """(tokens, width) mean residual of the vectors of a token's items, level by level, along their principal axes.

    For residual quantizers this is the centroid; with one token per item, the item's vector. Spread as in `text`; a
    token without items starts as in `mean`.
    """
    residual, rows = principal(torch.from_numpy(info.vectors), base.shape[1]), torch.full_like(noise, torch.nan)
    for column in torch.from_numpy(info.codes.astype(np.int64)).T:
        total, count = torch.zeros_like(noise), torch.zeros(len(noise), 1)
        inside = _add_rows(total, count, column, residual)
        means, used = total / count, count[:, 0] > 0
        residual[inside] -= means[column[inside]]
        rows[used] = means[used]
    return _spread(rows, base, noise, info.levels)


def principal(vectors: Tensor, width: int) -> Tensor:
    """(items, width) centred vectors along their principal axes, padded with zeros if there are fewer axes."""
    centred = (vectors - vectors.mean(0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # in rising order
    axes = axes.flip(1)[:, :width]
    axes *= axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the signs of eigenvectors are arbitrary
    return nn.functional.pad((centred @ axes).float(), (0, max(0, width - axes.shape[1])))


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """(dim, width) ridge regression from (n, dim) to (n, width) with an unpenalized intercept, in closed form.

    `penalty` weighs the squared norm of the map against the sum of squared errors.
    """
    x, y = inputs.double() - inputs.double().mean(0), targets.double() - targets.double().mean(0)
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y).to(inputs.dtype)


def _add_rows(total: Tensor, count: Tensor, column: Tensor, rows: Tensor) -> Tensor:
    """Add the (items, width) rows to the totals of their tokens, one level of codes; return which items have one."""
    inside = column >= 0
    total.index_add_(0, column[inside], rows[inside])
    count.index_add_(0, column[inside], torch.ones(int(inside.sum()), 1))
    return inside


def _text_rows(base: Tensor, texts: list[list[int]]) -> Tensor:
    """(texts, width) mean row of each text's tokens."""
    kept = [[token for token in tokens if token < len(base)] for tokens in texts]
    starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in kept])[:-1]])
    flat = torch.tensor([token for tokens in kept for token in tokens], dtype=torch.long)
    return nn.functional.embedding_bag(flat, base, torch.from_numpy(starts.astype(np.int64)), mode="mean")


def _spread(rows: Tensor, base: Tensor, noise: Tensor, levels: np.ndarray) -> Tensor:
    """Scale each level's rows about the base's mean row to the spread of the base's; NaN rows become `mean`."""
    result, spread = mean(base, noise), _rms(base - base.mean(0))
    for level in np.unique(levels):
        mask = torch.from_numpy(levels == level) & rows.isfinite().all(1)
        if mask.any():
            centred = rows[mask] - rows[mask].mean(0)
            result[mask] = base.mean(0) + centred * (spread / _rms(centred).clamp(min=1e-12))
    return result


def _rms(rows: Tensor) -> Tensor:
    """Root mean square of the rows' lengths."""
    return rows.norm(dim=1).square().mean().sqrt()


@dataclass(frozen=True)
class Snapshot:
    """Embedding rows before training.

    Attributes:
        new: side → (tokens, width) rows of new tokens.
        old: side → hash of the rows below them.
    """

    new: dict[str, Tensor]
    old: dict[str, str]

    @classmethod
    def of(cls, model: PreTrainedModel, new: np.ndarray) -> Snapshot:
        """Copy the rows of new tokens of a plain model, and hash the others."""
        ids, sides = torch.from_numpy(new), embedding_weights(model)
        return cls(
            {side: weight.detach()[ids].float().cpu() for side, weight in sides.items()},
            {side: _hash(weight[: int(new.min())]) for side, weight in sides.items()},
        )


def check_embeddings(
    before: Snapshot,
    model: PreTrainedModel,
    new: np.ndarray,
    tokens: Sequence[str],
    used: Mapping[str, np.ndarray],
    reserved: np.ndarray,
    base_trained: bool,
) -> dict[str, Any]:
    """Measure how far the rows of new tokens moved in training, and check that they did.

    Args:
        before: of the model before training.
        model: after training, merged.
        new: (tokens,) ids of the new tokens.
        tokens: (tokens,) their names.
        used: `input` and `output` → (tokens,) bool, used there in training; tied sides are used by both.
        reserved: (tokens,) bool, tokens that no item has.
        base_trained: whether the base's own rows were trained, too.

    Returns:
        For each side, for item tokens and reserved ones: the count, the mean distance, how many did not move.

    Raises:
        ModelError: a used row did not move, or a frozen row did.
    """
    after, facts, tied = Snapshot.of(model, new), {}, len(before.new) == 1
    in_codes = np.array([token != MENTION for token in tokens])
    for side, rows in before.new.items():
        distance = (after.new[side] - rows).norm(dim=1).numpy()
        _check_moved(side, distance, tokens, used["input"] | used["output"] if tied else used[side])
        if not base_trained and after.old[side] != before.old[side]:
            raise ModelError(
                f"embedding rows of the base's own tokens changed on the {side} side though they were to stay. "
                "Set model.base_embeddings: trained if they may change; otherwise this is a bug, please report it."
            )
        facts[side] = _figures(distance[in_codes & ~reserved])
        if (in_codes & reserved).any():
            facts[side]["reserved"] = _figures(distance[in_codes & reserved])
    return facts


def _check_moved(side: str, distance: np.ndarray, tokens: Sequence[str], used: np.ndarray) -> None:
    unmoved = np.flatnonzero(used & ~(distance > 0))
    if len(unmoved):
        named = ", ".join(tokens[token] for token in unmoved[:5]) + ("…" if len(unmoved) > 5 else "")
        raise ModelError(
            f"{len(unmoved)} of {int(used.sum())} item tokens that training used did not move on the {side} side "
            f"({named}), so the model has learnt nothing about their items. Either training was next to nothing (raise "
            "train.N.learning_rate or train.N.epochs) or their rows were frozen: then it is a bug, please report it."
        )


def _figures(distance: np.ndarray) -> dict[str, Any]:
    mean = float(distance.mean()) if len(distance) else 0.0
    return {"tokens": len(distance), "mean distance": round(mean, 5), "unmoved": int((distance == 0).sum())}


def _hash(rows: Tensor) -> str:
    data: Any = rows.detach().cpu().contiguous().view(torch.uint8).numpy()  # hashed in place, not copied
    return hashlib.sha256(data).hexdigest()
