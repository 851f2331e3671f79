"""GRPO: sample a group of items at each position, score them by rewards, and raise the probability of the better ones.

The training loop is that of transformers. Roll-outs are sampled before the forward pass of each micro-batch, with the
same weights that it trains, so the ratio of policies is 1 and needs no clipping; only its gradient is used. Samples
depend on the run's seed, the step and the micro-batch alone, so a continued training samples what an uninterrupted one
does.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.align.context import AlignmentContext, RunningMeans, StageBundle, build_objective
from llmrec.align.rewards import REWARDS, Reward, RewardInputs, total_reward
from llmrec.align.rollout import Rollouts, group_advantages, normalize, policy_batch, sample_items
from llmrec.align.shared_prefix import policy_logprobs
from llmrec.contracts import CollaborativeModel
from llmrec.decode.scorer import Scorer
from llmrec.errors import ModelError
from llmrec.files import write_json
from llmrec.recipe import Grpo
from llmrec.seed import stream
from llmrec.train import distributed
from llmrec.train.job import TrainJob
from llmrec.train.loop import Objective
from llmrec.train.packing import IGNORE

PREFLIGHT = 64  # positions that are sampled before training


class RolloutGenerator:
    """Samples and scores groups of items for a model in training, and computes its loss on them.

    Attributes:
        settings: of the recipe.
        context: positions, prompts and catalogue.
        rewards: name → function and weight.
        means: values that are logged beside the loss.
    """

    def __init__(
        self,
        settings: Grpo,
        context: AlignmentContext,
        seed: int,
        reference: Any = None,
        rewards: Mapping[str, tuple[Reward, float]] | None = None,
        teacher: Callable[[], CollaborativeModel] | None = None,
    ) -> None:
        """Set up sampling and rewards.

        Args:
            reference: frozen copy of the model before training; None where the trained model is the reference when its
                adapters are switched off.
            rewards: custom functions; None for those that the recipe names.
            teacher: loads the collaborative model of the reward `teacher`.
        """
        self.settings, self.context, self.seed, self.reference = settings, context, seed, reference
        self.rewards = rewards or {name: (REWARDS[name], weight) for name, weight in settings.rewards.items()}
        self.means, self.sampled = RunningMeans(), np.zeros(context.positions.n_items, bool)
        self.scorer: Scorer | None = None
        self.counts = np.bincount(context.positions.train.items, minlength=context.positions.n_items)
        self.teacher: CollaborativeModel | None = None
        if "teacher" in self.rewards:
            assert teacher is not None, "the reward `teacher` needs one"
            self.teacher = teacher()

    def rollout(self, model: Any, rows: np.ndarray, *names: int) -> Rollouts:
        """Sample groups of items at some positions, and compute their rewards.

        Args:
            model: the policy.
            rows: (rows,) numbers of positions.
            names: what the random stream depends on besides the run's seed.

        Raises:
            ModelError: see `total_reward` and `Scorer`.
        """
        context, positions, catalogue = self.context, self.context.positions, self.context.catalogue
        self.scorer = self.scorer or Scorer(model)
        training, random = model.training, stream(self.seed, "play", *names)
        model.eval()
        prompts = [context.prompts[row].tolist() for row in rows]
        filters, trie = positions.filters(rows, catalogue.trie), catalogue.trie
        request = self.settings, self.scorer, trie, context.tokens, prompts, filters
        items, log_probs, weights = sample_items(*request, random)
        model.train(training)
        inputs = RewardInputs(
            items,
            log_probs,
            positions.targets[rows],
            catalogue.codes,
            self.counts,
            None if self.teacher is None else self.teacher.score(positions.histories(rows)),
            [context.users[user] for user in positions.users[rows]],
            catalogue.item_ids,
            catalogue.titles,
            context.read_texts,
        )
        return Rollouts(items, weights, inputs.targets, *total_reward(self.rewards, inputs))

    def prepare(self, model: Any, positions: np.ndarray, step: int, micro_batch: int) -> dict[str, Tensor]:
        """Sample and score groups at (rows,) positions, and build the batch of groups, targets and advantages."""
        real, rows = positions >= 0, np.maximum(positions, 0)
        context, catalogue = self.context, self.context.catalogue
        rollouts = self.rollout(model, rows, step, micro_batch, int(os.environ.get("RANK", "0")))
        advantages, constant = group_advantages(self.settings, rollouts, catalogue.codes)
        counted = real & ~(constant & self.settings.skip_constant_groups)
        advantages *= (counted * self._scale(real, counted, model.device))[:, None]
        self._log(rollouts, constant, real)
        items = np.concatenate([rollouts.items, rollouts.targets[:, None]], 1)
        prompts, filters = [context.prompts[row] for row in rows], context.positions.filters(rows, catalogue.trie)
        batch = policy_batch(catalogue.trie, context.tokens, prompts, items, filters)
        batch["advantages"] = torch.from_numpy(advantages.astype(np.float32))
        batch["weights"] = torch.from_numpy((normalize(rollouts.weights) * real[:, None]).astype(np.float32))
        batch = {name: value.to(model.device) for name, value in batch.items()}
        with self._reference(model) as frozen, torch.no_grad():
            batch["reference"] = self._scores(frozen, batch)
        return batch

    def _scale(self, real: np.ndarray, counted: np.ndarray, device: torch.device) -> float:
        """Positions of the micro-batch over those that count, in all processes: makes a mean over the latter."""
        counts = torch.tensor([real.sum(), counted.sum()], dtype=torch.float32, device=device)
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(counts)
        return float(counts[0] / counts[1].clamp(min=1))

    def _log(self, rollouts: Rollouts, constant: np.ndarray, real: np.ndarray) -> None:
        if not real.any():
            return
        self.sampled[rollouts.items[rollouts.valid & real[:, None]]] = True
        values = {
            "reward": (normalize(rollouts.weights) * rollouts.rewards).sum(1)[real],
            "reward_std": np.where(rollouts.valid, rollouts.rewards, np.nan)[real].std(1),
            "constant": constant[real],
            "hits": rollouts.hits[real].any(1),
            "distinct": rollouts.distinct[real],
        }
        values |= {f"reward {name}": np.array([mean]) for name, mean in rollouts.reward_means.items()}
        self.means.add({name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()})

    def pop_means(self) -> dict[str, float]:
        """Return the means to log, with the share of the catalogue sampled, and start again."""
        means = self.means.pop() | {"coverage": float(self.sampled.mean())}
        self.sampled[:] = False
        return means

    @contextlib.contextmanager
    def _reference(self, model: Any) -> Iterator[Any]:
        """The model before training."""
        if self.reference is not None:
            yield self.reference
            return
        with model.disable_adapter():
            yield model

    def _scores(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        tokens = torch.from_numpy(self.context.tokens).to(batch["symbols"].device)
        return policy_logprobs(model, batch, batch["allowed"], tokens, batch["symbols"], self.settings.temperature)

    def losses(self, model: Any, batch: dict[str, Tensor], counted: Tensor) -> Tensor:
        """(rows,) loss of each position: policy gradient, KL to the reference, SFT of the target; 0 if not counted."""
        scores = self._scores(model, batch)
        samples, target = scores[:, :-1], scores[:, -1].sum(1)
        ratio = (samples.sum(2) - samples.sum(2).detach()).exp()
        difference = batch["reference"][:, :-1] - samples
        divergence = (batch["weights"] * (difference.exp() - difference - 1).sum(2)).sum(1)
        lengths = (batch["answers"][:, -1] != IGNORE).sum(1).clamp(min=1)
        self.means.add({"kl": divergence[counted], "target": target[counted]})
        regularised = self.settings.kl * divergence - self.settings.sft * target / lengths
        return counted * regularised - (batch["advantages"] * ratio).sum(1)

    def objective(self) -> Objective:
        """The training objective on rows of positions."""
        return build_objective(self.prepare, self.losses, self.pop_means)


def frozen_copy(model: Any) -> Any:
    """A copy of a plain model without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def preflight(generator: RolloutGenerator, model: Any, name: str) -> dict[str, float]:
    """Check before training that samples are valid and different, and that their rewards differ.

    Args:
        name: of the stage in the recipe, for messages.

    Returns:
        Shares: of samples that are items, of different items in a group, of groups that hold the target, of groups
        whose rewards differ; and the mean reward.

    Raises:
        ModelError: nothing can be learnt; says why and what to change.
    """
    context, settings = generator.context, generator.settings
    rows = np.linspace(0, len(context.positions) - 1, min(PREFLIGHT, len(context.positions))).astype(int)
    rollouts = generator.rollout(model, rows, -1)
    valid, distinct, hits = rollouts.valid, rollouts.distinct, float(rollouts.hits.any(1).mean())
    differ = 1 - float(group_advantages(settings, rollouts, context.catalogue.codes)[1].mean())
    if not valid.any():
        raise ModelError(
            f"{name}: at none of {len(rows)} positions may any item be recommended: every history holds the whole "
            "catalogue. Set evaluate.exclude_seen: false, or give more items."
        )
    if distinct.max() * settings.group_size <= 1.5:
        raise ModelError(
            f"{name}: all {settings.group_size} samples of every group are one item, so rewards cannot be compared. "
            f"Raise {name}.temperature (now {settings.temperature}), or set {name}.sampling: without-replacement."
        )
    if not differ:
        listed = ", ".join(f"{reward} {mean:.4g}" for reward, mean in rollouts.reward_means.items())
        raise ModelError(
            f"{name}: within each of {len(rows)} groups all rewards are equal (means: {listed}), so there is nothing "
            f"to learn from. The target item is in {hits:.1%} of the groups: train the stage before longer, raise "
            f"{name}.group_size (now {settings.group_size}), or add a reward that differs between misses, such as "
            f"{name}.rewards.prefix=0.5."
        )
    values = {
        "positions": len(rows),
        "valid": valid.mean(),
        "different": distinct.mean(),
        "hits": hits,
        "groups that differ": differ,
        "reward": rollouts.rewards[valid].mean(),
    }
    return {key: round(float(value), 5) for key, value in values.items()}


def prepare(
    settings: Grpo, context: AlignmentContext, model: Any, adapted: Callable[[Any], Any], job: TrainJob
) -> StageBundle:
    """Set up the reference and the roll-outs, and run the preflight.

    Args:
        model: before the stage.
        adapted: adds adapters; without them they leave the reference, so only full training needs a copy.

    Raises:
        ModelError: see `preflight`.
    """
    reference = frozen_copy(model) if job.adapt == "full" else None
    model = adapted(model)
    generator = RolloutGenerator(settings, context, job.seed, reference, teacher=job.teacher)
    report = preflight(generator, model, job.name)
    return StageBundle(
        model,
        generator.objective(),
        {"preflight": report},
        lambda folder: write_json(folder / "preflight.json", report),
    )
