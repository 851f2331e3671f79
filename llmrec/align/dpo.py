"""DPO, S-DPO and IPO: losses, rows of a prompt and its answers, and reference log-probabilities, computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrec.align import pairs as sources
from llmrec.align.context import AlignmentContext, RunningMeans, StageBundle, build_objective
from llmrec.align.pairs import PreferencePairs, build_pairs
from llmrec.align.shared_prefix import answer_logprobs, build_shared_prefix_batch
from llmrec.decode.scorer import Scorer
from llmrec.files import atomic_file
from llmrec.recipe import Dpo
from llmrec.seed import stream
from llmrec.train.job import TrainJob
from llmrec.train.loop import Objective
from llmrec.train.packing import IGNORE

BATCH = 16  # rows whose reference is computed together


def softmax_dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """S-DPO: prefer one answer to several at once. With one rejected answer this is DPO, number for number.

    Args:
        chosen: (rows,) log-ratio of the chosen answer: its log-probability minus that under the reference, in nats.
        rejected: (rows, negatives) log-ratio of each rejected answer.
        beta: how closely to stay to the reference; 0.1 to 1, larger is closer.

    Returns:
        (rows,) loss in nats, at least 0.

    Source: Chen et al. 2024, arXiv 2406.09215, eq. 11.
    """
    return -logsigmoid(-(beta * (rejected - chosen[:, None])).logsumexp(1))


def pairwise_dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Mean DPO loss of the chosen answer against each rejected one. Arguments and shape as in `softmax_dpo`.

    Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7.
    """
    return -logsigmoid(beta * (chosen[:, None] - rejected)).mean(1)


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """IPO: mean squared distance of each log-ratio difference from 1 / (2 beta). Otherwise as `softmax_dpo`.

    Args:
        chosen: (rows,) mean log-ratio over the tokens of the answer, so that codes of any length have equal weight.
        rejected: (rows, negatives) likewise.
        beta: the strength of the regularisation, tau in the paper.

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17; the mean over tokens as in TRL.
    """
    return (chosen[:, None] - rejected - 1 / (2 * beta)).square().mean(1)


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "s-dpo": softmax_dpo,
    "dpo": pairwise_dpo,
    "ipo": ipo,
}


def preference_loss(
    method: str, scores: Tensor, reference: Tensor, lengths: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Loss of rows of answers, the chosen answer first.

    Args:
        method: one of `LOSSES`.
        scores: (rows, 1 + negatives) log-probability of each answer, in nats, summed over its tokens.
        reference: as `scores`, under the reference model.
        lengths: (rows, 1 + negatives) tokens of each answer, at least 1.
        beta: see the losses.

    Returns:
        (rows,) loss, and (rows, 1 + negatives) log-ratio of each answer to the reference, in nats, detached.
    """
    log_ratio = scores - reference
    compared = log_ratio / lengths if method == "ipo" else log_ratio
    return LOSSES[method](compared[:, 0], compared[:, 1:], beta), log_ratio.detach()


def margin(log_ratio: Tensor) -> Tensor:
    """(rows,) log-ratio of the chosen answer minus the largest of the rejected, from (rows, 1 + negatives)."""
    return log_ratio[:, 0] - log_ratio[:, 1:].amax(1)


class PairBatches:
    """Batches of positions: prompts, the codes of targets and negatives, and the reference scores of these answers."""

    def __init__(self, prompts: Sequence[np.ndarray], codes: np.ndarray, items: np.ndarray) -> None:
        """Set up the batches; `reference` is filled in later.

        Args:
            prompts: token ids of each position's prompt, each (length,).
            codes: (items, longest) model tokens of every item's code, padded at the end by -1.
            items: (positions, answers) item numbers, the target first.
        """
        self.prompts, self.codes, self.items = prompts, codes, items
        self.reference = np.zeros(items.shape, np.float32)

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Build the shared-prefix batch of positions, with their reference; -1 is a prompt of one token, no answers."""
        real = rows >= 0
        prompts = [self.prompts[row] if row >= 0 else np.zeros(1, np.int64) for row in rows]
        answers = np.where(real[:, None, None], self.codes[self.items[rows]], -1)
        reference = torch.from_numpy(np.where(real[:, None], self.reference[rows], 0))
        return build_shared_prefix_batch(prompts, list(answers)) | {"reference": reference}


@torch.no_grad()
def reference_logprobs(model: Any, pairs: PairBatches) -> np.ndarray:
    """(positions, answers) float32 log-probability of every answer under the current model, in nats."""
    device, scores = next(model.parameters()).device, np.zeros(pairs.items.shape, np.float32)
    order = np.argsort([len(prompt) for prompt in pairs.prompts], kind="stable")  # similar lengths share a batch
    model.eval()
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = {name: value.to(device) for name, value in pairs.batch(rows).items()}
        scores[rows] = answer_logprobs(model, batch).sum(2).cpu().numpy()
    return scores


def prepare(
    settings: Dpo, context: AlignmentContext, model: Any, adapted: Callable[[Any], Any], job: TrainJob
) -> StageBundle:
    """Choose negatives with the model before the stage, and compute the reference scores of all answers.

    Both are kept in the work folder, for a training that is continued.

    Args:
        model: before the stage.
        adapted: adds adapters. They start as zero, so the adapted model is its own reference, quantized or not.

    Raises:
        DataError: see `build_pairs`.
    """
    chosen = _once(job.work / "pairs.npz", lambda: _choose(settings, context, model, job))
    dropped = json.loads(str(chosen["dropped"]))
    pairs = PreferencePairs(context.positions.targets, chosen["negatives"], chosen["kinds"], dropped)
    model = adapted(model)
    items = np.concatenate([pairs.targets[:, None], pairs.negatives], 1)
    batches = PairBatches(context.prompts, context.item_tokens, items)
    scores = _once(job.work / "reference.npz", lambda: {"scores": reference_logprobs(model, batches)})
    batches.reference = scores["scores"]

    def save(folder: Path) -> None:
        pairs.save(context, batches.reference, folder / "pairs.parquet")

    return StageBundle(model, objective(settings, batches), {"pairs": pairs.negatives.size, "left out": dropped}, save)


def _choose(settings: Dpo, context: AlignmentContext, model: Any, job: TrainJob) -> dict[str, Any]:
    positions = context.positions
    by_kind = {
        "random": sources.random_items(positions, stream(job.seed, "align", "random")),
        "popular": sources.popular_items(positions, stream(job.seed, "align", "popular")),
    }
    if "teacher" in settings.negatives:
        assert job.teacher is not None, f"{job.name} has no teacher"
        by_kind["teacher"] = sources.teacher_items(positions, job.teacher())
    if "beams" in settings.negatives:
        by_kind["beams"] = sources.beam_items(context, Scorer(model))
    pairs = build_pairs(positions, settings.negatives, by_kind)
    return {"negatives": pairs.negatives, "kinds": pairs.kinds.astype("U16"), "dropped": json.dumps(pairs.dropped)}


def _once(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays from a file, which is computed and written if there is none."""
    if not path.is_file():
        with atomic_file(path) as file, file.open("wb") as sink:
            np.savez(sink, **compute())
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def objective(settings: Dpo, pairs: PairBatches) -> Objective:
    """Build the training objective of a recipe's preference method."""
    means = RunningMeans()

    def losses(model: Any, batch: dict[str, Tensor], counted: Tensor) -> Tensor:
        scores = answer_logprobs(model, batch).sum(2)
        lengths = (batch["answers"] != IGNORE).sum(2).clamp(min=1)
        values, log_ratio = preference_loss(settings.method, scores, batch["reference"], lengths, settings.beta)
        if settings.sft:
            values = values - settings.sft * scores[:, 0] / lengths[:, 0]
        lead = margin(log_ratio[counted])
        means.add({"margin": lead, "accuracy": lead > 0, "chosen gain": log_ratio[counted, 0]})
        return values * counted

    return build_objective(lambda model, rows, step, micro_batch: pairs.batch(rows), losses, means.pop)
