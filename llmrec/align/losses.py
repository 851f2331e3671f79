"""Losses of preference: one answer before others, relative to the model that training began with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def softmax_dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """S-DPO: prefer one answer to several at once. With one rejected answer this is DPO, number for number.

    Args:
        chosen: (rows,) log-probability of the chosen answer minus that under the reference, in nats.
        rejected: (rows, negatives) the same for each rejected answer.
        beta: how strongly to hold to the reference; 0.1 to 1, larger holds closer.

    Returns:
        (rows,) loss in nats, at least 0.

    Raises:
        ValueError: `rejected` has no negatives axis, or none on it.

    Source: Chen et al. 2024, arXiv 2406.09215, eq. 11.
    """
    _check(rejected)
    return -logsigmoid(-(beta * (rejected - chosen[:, None])).logsumexp(1))


def pairwise_dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """DPO of the chosen answer against each rejected one, as a mean. Arguments, shape and errors as `softmax_dpo`.

    Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7.
    """
    _check(rejected)
    return -logsigmoid(beta * (chosen[:, None] - rejected)).mean(1)


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """IPO: as far apart as 1 / (2 beta), and no further, as a mean over the rejected. As `softmax_dpo` otherwise.

    Args:
        chosen: (rows,) as there, but a mean over the tokens of the answer, so that codes of any length weigh alike.
        rejected: (rows, negatives) likewise.
        beta: the strength of the regularisation, tau in the paper.

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17; the mean over tokens as in TRL.
    """
    _check(rejected)
    return (chosen[:, None] - rejected - 1 / (2 * beta)).square().mean(1)


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "s-dpo": softmax_dpo,
    "dpo": pairwise_dpo,
    "ipo": ipo,
}


def preference(method: str, scores: Tensor, reference: Tensor, lengths: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of rows of answers, the chosen one first.

    Args:
        method: one of `LOSSES`.
        scores: (rows, 1 + negatives) log-probability of each answer, in nats, summed over its tokens.
        reference: as `scores`, of the model that training began with.
        lengths: (rows, 1 + negatives) tokens of each answer, at least 1.
        beta: see the losses.

    Returns:
        (rows,) loss, and (rows, 1 + negatives) by how much each answer has become likelier, in nats.
    """
    gained = scores - reference
    judged = gained / lengths if method == "ipo" else gained
    return LOSSES[method](judged[:, 0], judged[:, 1:], beta), gained.detach()


def _check(rejected: Tensor) -> None:
    if rejected.dim() != 2 or not rejected.shape[1]:
        raise ValueError(f"rejected answers have the shape {tuple(rejected.shape)}, not (rows, negatives).")


def margin(gained: Tensor) -> tuple[Tensor, Tensor]:
    """Of (rows, 1 + negatives) gains: (rows,) that of the chosen over the best rejected, and whether it is above 0."""
    ahead = gained[:, 0] - torch.amax(gained[:, 1:], 1)
    return ahead, (ahead > 0).float()
