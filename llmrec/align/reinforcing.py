"""Reinforcement: groups drawn from the policy as it stands, judged, and the step that makes good items likelier.

The loop is transformers' own. Roll-outs come before the forward pass of each pass, from the very weights that it
trains, so the ratio of policies is 1 and needs no clipping; its gradient is all that is used. What is drawn depends on
the run's seed, the step and the pass alone, so a training that is gone on with draws what an uninterrupted one does.
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
from transformers.modeling_outputs import CausalLMOutput

from llmrec.align import advantages as judging
from llmrec.align.drawing import Group, draw, policy_tree
from llmrec.align.figures import Figures
from llmrec.align.ground import Ground
from llmrec.align.rewards import REWARDS, Answers, Reward, judged
from llmrec.align.tree import policy_logprobs
from llmrec.contracts import CollaborativeModel
from llmrec.decode.scorer import Scorer
from llmrec.recipe import Grpo
from llmrec.seed import stream
from llmrec.train import together
from llmrec.train.loop import Way
from llmrec.train.packing import IGNORE


class MomentRows:
    """A row for each moment: its number, and a label that counts it."""

    def __init__(self, moments: int) -> None:
        self.moments = moments

    @property
    def empty(self) -> dict[str, Tensor]:
        """No moment, which counts for nothing."""
        return {"moment": torch.tensor(-1), "labels": torch.full((2,), IGNORE)}

    def __len__(self) -> int:
        return self.moments

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"moment": torch.tensor(row), "labels": torch.tensor([IGNORE, 0])}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Numbers and labels of some rows."""
    return {name: torch.stack([row[name] for row in rows]) for name in ("moment", "labels")}


class Player:
    """Draws and judges groups for a model that is being trained.

    Attributes:
        settings: of the recipe.
        ground: moments, prompts and catalogue.
        rewards: name → function and weight.
        figures: what is told beside the loss.
    """

    def __init__(
        self,
        settings: Grpo,
        ground: Ground,
        seed: int,
        reference: Any = None,
        rewards: Mapping[str, tuple[Reward, float]] | None = None,
        teacher: Callable[[], CollaborativeModel] | None = None,
    ) -> None:
        """Get ready.

        Args:
            settings: of the recipe.
            ground: moments, prompts and catalogue.
            seed: of the draws.
            reference: the model before training, which stays as it is; None where the trained model becomes it with
                its adapters switched off.
            rewards: functions of one's own; those that the recipe names otherwise.
            teacher: loads the collaborative model that a reward asks for.
        """
        self.settings, self.ground, self.seed, self.reference = settings, ground, seed, reference
        self.rewards = rewards or {name: (REWARDS[name], weight) for name, weight in settings.rewards.items()}
        self.figures, self.seen = Figures(), np.zeros(ground.moments.n_items, bool)
        self.scorer: Scorer | None = None
        self.counts = np.bincount(ground.moments.train.items, minlength=ground.moments.n_items)
        self.teacher: CollaborativeModel | None = None
        if "teacher" in self.rewards:
            assert teacher is not None, "the reward `teacher` needs one"
            self.teacher = teacher()

    def play(self, model: Any, moments: np.ndarray, *names: int) -> tuple[Group, Answers, np.ndarray, dict[str, float]]:
        """Draw groups at some moments and judge them.

        Args:
            model: the policy.
            moments: (rows,) their numbers.
            names: what tells this draw from all others.

        Returns:
            The groups, what rewards saw, (rows, n) rewards, and the mean of each reward.

        Raises:
            ModelError: see `judged` and `Scorer`.
        """
        ground = self.ground
        if self.scorer is None:
            self.scorer = Scorer(model)
        training, random = model.training, stream(self.seed, "play", *names)
        model.eval()
        prompts = [ground.prompts[moment].tolist() for moment in moments]
        filters, trie = ground.moments.filters(moments, ground.catalogue.trie), ground.catalogue.trie
        group = draw(self.settings, self.scorer, trie, ground.tokens, prompts, filters, random)
        model.train(training)
        taught = None if self.teacher is None else self.teacher.score(ground.moments.histories(moments))
        taken = ground.moments.taken[moments]
        answers = Answers(
            group.items,
            group.log_probs,
            taken,
            ground.catalogue.codes,
            self.counts,
            taught,
            [ground.users[user] for user in ground.moments.users[moments]],
            ground.catalogue.item_ids,
            ground.catalogue.titles,
            ground.read_texts,
        )
        return group, answers, *judged(self.rewards, answers)

    def prepare(self, model: Any, inputs: dict[str, Tensor], step: int, turn: int) -> dict[str, Tensor]:
        """What a forward pass needs: the tree of the groups and of the items taken, and what each answer counts."""
        device, real = inputs["moment"].device, inputs["moment"].cpu().numpy() >= 0
        moments = np.where(real, inputs["moment"].cpu().numpy(), 0)
        group, answers, rewards, means = self.play(model, moments, step, turn, int(os.environ.get("RANK", "0")))
        gains, flat = self.gains(group, answers, rewards)
        live = real & ~(flat if self.settings.skip_constant_groups else np.zeros_like(flat))
        gains *= (live * self._scale(real, live, device))[:, None]
        self._tell(group, answers, rewards, means, flat, real)
        items = np.concatenate([group.items, answers.taken[:, None]], 1)
        filters = self.ground.moments.filters(moments, self.ground.catalogue.trie)
        prompts = [self.ground.prompts[moment] for moment in moments]
        tree = policy_tree(self.ground.catalogue.trie, self.ground.tokens, prompts, items, filters)
        tree |= {
            "gains": torch.from_numpy(gains.astype(np.float32)),
            "weights": torch.from_numpy((judging.shares(group.weights) * real[:, None]).astype(np.float32)),
        }
        tree = {name: value.to(device) for name, value in tree.items()} | {"labels": inputs["labels"]}
        with self._reference(model) as frozen, torch.no_grad():
            tree["reference"] = self._scores(frozen, tree)
        return tree

    def gains(self, group: Group, answers: Answers, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each draw of some groups counts.

        Args:
            group: the draws.
            answers: what rewards saw.
            rewards: (rows, n).

        Returns:
            (rows, n) advantages with the bonus, weighted so that their product with log-probabilities is summed; and
            (rows,) whether a group teaches nothing: its rewards are equal, and no bonus tells its draws apart.
        """
        found = np.zeros(rewards.shape)
        if self.settings.advantage != "pass":
            found += judging.advantages(rewards, group.weights, self.settings.advantage == "grpo")
        if self.settings.pass_at_k:
            hits = group.items == answers.taken[:, None]
            found += judging.pass_bonus(hits, group.weights, self.settings.pass_at_k)
        lengths = (self.ground.catalogue.codes[np.maximum(group.items, 0)] >= 0).sum(2)
        spans = lengths if self.settings.advantage == "grpo" else self.ground.catalogue.codes.shape[1]
        return group.weights * found / spans, np.all(found == 0, axis=1)

    def _scale(self, real: np.ndarray, live: np.ndarray, device: torch.device) -> float:
        """What makes a mean over all moments of a pass, in all processes, one over those that count."""
        counts = torch.tensor([real.sum(), live.sum()], dtype=torch.float32, device=device)
        if together.world() > 1:
            torch.distributed.all_reduce(counts)
        return float(counts[0] / counts[1].clamp(min=1))

    def _tell(
        self,
        group: Group,
        answers: Answers,
        rewards: np.ndarray,
        means: dict[str, float],
        flat: np.ndarray,
        real: np.ndarray,
    ) -> None:
        if not real.any():
            return
        items, there = group.items[real], group.items[real] >= 0
        self.seen[items[there]] = True
        distinct = [len(np.unique(row[row >= 0])) / max(1, (row >= 0).sum()) for row in items]
        values = {
            "reward": (judging.shares(group.weights) * rewards).sum(1)[real],
            "spread": np.where(group.items >= 0, rewards, np.nan)[real].std(1),
            "flat": flat[real],
            "hits": (items == answers.taken[real][:, None]).any(1),
            "distinct": distinct,
        }
        values |= {f"reward {name}": [mean] for name, mean in means.items()}
        self.figures.add({name: torch.as_tensor(np.asarray(value, np.float32)) for name, value in values.items()})

    def told(self) -> dict[str, float]:
        """Means since they were last told, and the share of the catalogue drawn meanwhile."""
        found = self.figures.told() | {"coverage": float(self.seen.mean())}
        self.seen[:] = False
        return found

    @contextlib.contextmanager
    def _reference(self, model: Any) -> Iterator[Any]:
        """The model before training."""
        if self.reference is not None:
            yield self.reference
            return
        with model.disable_adapter():
            yield model

    def _scores(self, model: Any, tree: dict[str, Tensor]) -> Tensor:
        tokens = torch.from_numpy(self.ground.tokens).to(tree["symbols"].device)
        given = {name: tree[name] for name in ("input_ids", "position_ids", "branch", "ends", "places", "answers")}
        return policy_logprobs(model, given, tree["allowed"], tokens, tree["symbols"], self.settings.temperature)

    def forward(
        self,
        model: Any,
        input_ids: Tensor,
        gains: Tensor | None = None,
        weights: Tensor | None = None,
        reference: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Tensor,
    ) -> CausalLMOutput:
        """What takes the place of `model.forward`; without gains, the model's own: validation asks for it."""
        if gains is None or weights is None or reference is None or labels is None:
            return type(model).forward(model, input_ids=input_ids, labels=labels, **inputs)
        scores = self._scores(model, {"input_ids": input_ids, **inputs})
        counts = (labels[:, 1] != IGNORE).float()
        drawn, taken = scores[:, :-1], scores[:, -1].sum(1)
        ratio = (drawn.sum(2) - drawn.sum(2).detach()).exp()
        apart = reference[:, :-1] - drawn
        divergence = (weights * (apart.exp() - apart - 1).sum(2)).sum(1)
        lengths = (inputs["answers"][:, -1] != IGNORE).sum(1).clamp(min=1)
        losses = counts * (self.settings.kl * divergence - self.settings.sft * taken / lengths)
        losses = losses - (gains * ratio).sum(1)
        self.figures.add({"kl": divergence[counts > 0], "taken": taken[counts > 0]})
        total = counts.sum() if num_items_in_batch is None else num_items_in_batch
        loss: Any = losses.sum() / total
        return CausalLMOutput(loss=loss)

    def way(self) -> Way:
        """How rows of moments become a loss."""
        return Way(self.forward, collate, self.prepare, self.told, quiet=True)


def frozen(model: Any) -> Any:
    """A copy of a plain model that stays as it is."""
    return copy.deepcopy(model).eval().requires_grad_(False)
