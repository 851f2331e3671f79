"""Reinforcement against the exact gradient of the expected reward, and what its guards refuse."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aligned_models import family, gradients
from pydantic import ValidationError
from shared_dpo import in_two_processes
from shared_grpo import CODES, alignment_context, main, settings, train_on_all
from torch import Tensor

from llmrec.align import rewards as worth
from llmrec.align.context import AlignmentContext, PositionRows, TrainPositions
from llmrec.align.grpo import RolloutGenerator, frozen_copy, preflight
from llmrec.align.rewards import REWARDS, RewardInputs, total_reward
from llmrec.align.rollout import (
    Rollouts,
    advantages,
    group_advantages,
    inclusion_weights,
    normalize,
    pass_bonus,
    policy_batch,
    sample_items,
)
from llmrec.align.shared_prefix import policy_logprobs
from llmrec.contracts import Sequences
from llmrec.decode.exact import score_all
from llmrec.decode.scorer import Scorer
from llmrec.errors import ModelError
from llmrec.train import loop
from llmrec.train.packing import IGNORE


def step(generator: RolloutGenerator, model: Any, number: int = 0) -> dict[str, Tensor]:
    """The gradient of one pass over all positions."""
    batch = generator.prepare(model, np.arange(4), number, 0) | {"labels": torch.tensor([[IGNORE, 0]] * 4)}
    output = generator.objective().forward(model, **batch)
    return gradients(model, output.loss)  # type: ignore[arg-type]


def exact(model: Any, context: AlignmentContext, temperature: float = 1.0) -> Tensor:
    """(positions, items) log-probability of every item under the masked policy, with a gradient."""
    count = context.positions.n_items
    filters = context.positions.filters(range(4), context.catalogue.trie)
    items = np.tile(np.arange(count), (4, 1))
    if not context.positions.repeats:
        for row in range(4):
            items[row, context.positions.history(row)] = -1
    batch = policy_batch(context.catalogue.trie, context.tokens, context.prompts, items, filters)
    allowed, symbols = batch.pop("allowed"), batch.pop("symbols")
    scores = policy_logprobs(model, batch, allowed, torch.from_numpy(context.tokens), symbols, temperature).sum(2)
    return scores.masked_fill(torch.from_numpy(items < 0), -torch.inf)


@pytest.mark.parametrize("repeats", [True, False])
def test_the_policy_is_what_decoding_draws_from(repeats: bool) -> None:
    model, context = family("qwen3"), alignment_context(repeats)
    filters = context.positions.filters(range(4), context.catalogue.trie)
    prompts = [prompt.tolist() for prompt in context.prompts]
    truth = score_all(Scorer(model), context.catalogue.trie, context.tokens, prompts, "allowed", filters)
    torch.testing.assert_close(exact(model, context), torch.from_numpy(truth), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exact(model, context).exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("draws", ["with-replacement", "without-replacement", "beams"])
def test_with_a_catalogue_of_one_item_the_gradient_is_exactly_zero(draws: str) -> None:
    model, context = family("llama"), alignment_context(items=1)
    context = AlignmentContext(
        **{
            **vars(context),
            "positions": TrainPositions(Sequences.of([[0, 0]] * 4), np.arange(4), np.ones(4, int), True, 1),
        }
    )
    generator = RolloutGenerator(
        settings(sampling=draws, kl=1.0, sft=1.0, group_size=2), context, 0, frozen_copy(family("llama", seed=1))
    )
    assert all((value == 0).all() for value in step(generator, model).values())


@pytest.mark.parametrize("repeats", [True, False])
def test_when_every_item_is_drawn_the_gradient_is_that_of_the_expected_reward(repeats: bool) -> None:
    """Without replacement, groups as large as the catalogue: nothing is left to chance."""
    model, context = family("llama"), alignment_context(repeats)
    generator = RolloutGenerator(
        settings(group_size=12, rewards={"hit": 1.0, "prefix": 0.5}), context, 0, frozen_copy(model)
    )
    scores = exact(model, context)
    items = np.tile(np.arange(12), (4, 1)).astype(np.int32)
    answers = RewardInputs(items, items * 0.0, context.positions.targets, context.catalogue.codes, generator.counts)
    values, _ = total_reward(generator.rewards, answers)
    expected = (scores.exp() * torch.from_numpy(values)).sum(1).mean()
    truth = gradients(model, -expected.float() / 3)  # a code has three tokens
    for name, value in step(generator, model).items():
        torch.testing.assert_close(value, truth[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("draws", ["with-replacement", "without-replacement"])
def test_sums_over_draws_have_the_mean_under_the_policy_as_their_expectation(draws: str) -> None:
    model, context = family("llama"), alignment_context(repeats=False)
    prompts, trie = [prompt.tolist() for prompt in context.prompts], context.catalogue.trie
    filters = context.positions.filters(range(4), trie)
    value = np.random.default_rng(3).normal(size=12)
    with torch.no_grad():
        truth = np.nan_to_num(exact(model, context).exp().numpy()) @ value
    times = 400
    items, _, weights = sample_items(
        settings(sampling=draws),
        Scorer(model),
        trie,
        context.tokens,
        prompts * times,
        filters * times,
        np.random.default_rng(0),
    )
    found = (weights * value[items]).sum(1).reshape(times, 4)
    error = np.std(found, axis=0) / math.sqrt(times)
    assert (np.abs(np.mean(found, axis=0) - truth) < 4.5 * error + 1e-6).all()


def test_beams_are_biased_as_said() -> None:
    model, context = family("llama"), alignment_context()
    prompts = [prompt.tolist() for prompt in context.prompts]
    items, _, weights = sample_items(
        settings(sampling="beams"),
        Scorer(model),
        context.catalogue.trie,
        context.tokens,
        prompts,
        [None] * 4,
        np.random.default_rng(0),
    )
    assert (weights == 1 / 6).all() and all(len(set(row)) == 6 for row in items.tolist())
    scores = exact(model, context).detach().numpy()
    assert all(set(row) == set(np.argsort(-scores[at])[:6]) for at, row in enumerate(items.tolist()))


def test_weights_without_replacement_are_probabilities_when_all_are_drawn() -> None:
    scores = np.log(np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]) + 1e-300)
    scores[1, 2] = -np.inf
    weights = inclusion_weights(scores.astype(np.float32), np.array([-np.inf, -np.inf], np.float32))
    np.testing.assert_allclose(weights, [[0.5, 0.3, 0.2], [0.9, 0.1, 0]], rtol=1e-6)


def test_advantages_are_zero_on_the_mean_of_every_group() -> None:
    random = np.random.default_rng(0)
    rewards, weights = random.normal(size=(50, 8)), random.random((50, 8)) * (random.random((50, 8)) < 0.9)
    rewards[7] = 3.0
    for scaled in (True, False):
        found = advantages(rewards, weights, scaled)
        np.testing.assert_allclose((normalize(weights) * found).sum(1), 0, atol=1e-12)
        assert (found[7] == 0).all() and (found[weights == 0] == 0).all()
    equal = np.full((1, 4), 0.25)
    truth = np.array([[1.0, 0, 0, 0]]) - 0.25
    np.testing.assert_allclose(advantages(np.array([[1.0, 0, 0, 0]]), equal, False), truth)
    np.testing.assert_allclose(advantages(np.array([[1.0, 0, 0, 0]]), equal, True), truth / math.sqrt(3 / 16))
    assert (advantages(rewards, weights, True) == 0).all(1).tolist() == [row == 7 for row in range(50)]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_bonus_for_one_hit_in_k_is_that_of_its_formula(k: int) -> None:
    """rho counted over all k-subsets; hits of every number among eight draws."""
    for c in range(9):
        hits = np.arange(8) < c
        subsets = list(itertools.combinations(range(8), k))
        rho = float(np.mean([any(hits[list(one)]) for one in subsets]))
        sigma = math.sqrt(rho * (1 - rho))
        found = pass_bonus(hits[None], np.full((1, 8), 1 / 8), k)[0]
        assert found.sum() == pytest.approx(0, abs=1e-9)
        if 8 - c < k or not c:
            assert (found == 0).all()
            continue
        for place in range(8):  # the advantage of an item: how often subsets that hold it hit, beyond rho
            mine = float(np.mean([any(hits[list(one)]) for one in subsets if place in one]))
            assert found[place] == pytest.approx((mine - rho) / sigma, abs=1e-9)


@pytest.mark.parametrize("advantage", ["grpo", "dr-grpo", "pass"])
def test_the_bonus_stands_beside_the_advantage_or_alone(advantage: str) -> None:
    items = np.array([[0, 5, 7, 5], [3, 1, 2, 4]], np.int32)
    targets, weights = np.array([7, 9], np.int32), np.full((2, 4), 0.25)
    hits = items == targets[:, None]
    group = Rollouts(items, weights, targets, hits.astype(float), {})
    found, constant_ones = group_advantages(settings(advantage=advantage, pass_at_k=2), group, CODES)
    usual = 0 if advantage == "pass" else advantages(hits.astype(float), weights, advantage == "grpo")
    np.testing.assert_allclose(found, weights * (usual + pass_bonus(hits, weights, 2)) / 3)
    assert constant_ones.tolist() == [False, True], "nobody hits in the second group"


def test_the_bonus_alone_needs_its_k() -> None:
    with pytest.raises(
        ValidationError, match="advantage: pass is the pass@k bonus alone, so it needs its k: set pass_at_k"
    ):
        settings(advantage="pass")
    with pytest.raises(ValidationError, match="uses hits alone and no rewards: leave rewards out"):
        settings(advantage="pass", pass_at_k=2, rewards={"prefix": 1.0})


def answers() -> RewardInputs:
    items = np.array([[0, 5, 7, 5], [3, 1, 2, -1]], np.int32)
    log_probs = np.log(np.array([[0.1, 0.4, 0.3, 0.4], [0.2, 0.5, 0.1, 1.0]], np.float32))
    counts = np.arange(12) ** 2
    taught = np.random.default_rng(0).permuted(np.tile(np.arange(12, dtype=np.float32), (2, 1)), axis=1)
    return RewardInputs(items, log_probs, np.array([7, 3], np.int32), CODES, counts, taught)


def test_rewards_are_what_they_say() -> None:
    given = answers()
    assert worth.hit(given).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert worth.prefix(given)[0].tolist() == pytest.approx([0, math.sqrt(1 / 3), 1, math.sqrt(1 / 3)])
    blame = np.array([1 / math.log2(place + 2) for place in range(4)]) / sum(
        1 / math.log2(place + 2) for place in range(4)
    )
    assert worth.rank(given)[0].tolist() == pytest.approx([-blame[3], -blame[0], 0, -blame[1]])
    assert (worth.rank(RewardInputs(**{**vars(given), "targets": np.array([11, 11])})) == 0).all()
    assert given.teacher_scores is not None
    for row, place in itertools.product(range(2), range(3)):
        lower = (given.teacher_scores[row] < given.teacher_scores[row, given.items[row, place]]).mean()
        assert worth.teacher(given)[row, place] == pytest.approx(lower)
    begins = [
        [sum(itertools.accumulate((one == two).tolist(), min)) for two in CODES[[0, 5, 7, 5]]]
        for one in CODES[[0, 5, 7, 5]]
    ]
    truth = [1 - (sum(row) / 3 - 1) / 3 for row in begins]
    assert worth.diversity(given)[0].tolist() == pytest.approx(truth)
    novelty = worth.novelty(given)[0]
    assert novelty[0] == 1 and novelty[2] < novelty[1] < 1
    popular = worth.popularity(given)
    assert popular[0, 2] < popular[1, 0] and (popular > 0).sum() == 2
    everybody = np.repeat(np.arange(12), given.counts)
    every = RewardInputs(everybody[:, None].astype(np.int32), everybody[:, None] * 0.0, everybody, CODES, given.counts)
    assert worth.popularity(every).mean() == pytest.approx(1)


def test_a_reward_of_the_wrong_shape_or_without_a_number_is_named() -> None:
    given = answers()
    with pytest.raises(
        ModelError, match=r"reward 'mine' gave values of the shape \(2,\) for items of the shape \(2, 4\)"
    ):
        total_reward({"mine": (lambda answers: np.ones(2), 1.0)}, given)
    with pytest.raises(ModelError, match=r"reward 'odd' gave nan for item number 5 \(3 of 7 values"):
        total_reward({"hit": (worth.hit, 1.0), "odd": (lambda a: np.where(a.items >= 5, np.nan, 1.0), 1.0)}, given)
    total, means = total_reward({"hit": (worth.hit, 2.0), "novelty": (worth.novelty, 0.0)}, given)
    assert total.tolist() == [[0, 0, 2, 0], [2, 0, 0, 0]] and means["hit"] == pytest.approx(2 / 7)


def test_rewards_see_ids_titles_texts_and_users() -> None:
    model, context = family("llama"), alignment_context()
    context = replace(context, read_texts=lambda: [f"text of {item}" for item in context.catalogue.item_ids])
    seen: list[RewardInputs] = []

    def mine(answers: RewardInputs) -> np.ndarray:
        seen.append(answers)
        return np.array([[len(answers.texts[item]) for item in row] for row in answers.items], float)

    RolloutGenerator(settings(), context, 0, model, {"mine": (mine, 1.0)}).rollout(model, np.array([2, 0]))
    (answers,) = seen
    assert list(answers.users) == [context.users[user] for user in context.positions.users[[2, 0]]]
    assert answers.item_ids == context.catalogue.item_ids and answers.titles == context.catalogue.titles
    assert answers.texts[3] == f"text of {context.catalogue.item_ids[3]}"


def test_preflight_explains_why_nothing_could_be_learnt() -> None:
    model, context = family("llama"), alignment_context()
    found = preflight(RolloutGenerator(settings(group_size=12), context, 0, model), model, "train.1")
    assert found["valid"] == found["different"] == found["hits"] == found["groups that differ"] == 1
    never = {"never": (lambda answers: np.zeros(answers.items.shape), 1.0)}
    with pytest.raises(ModelError, match=r"train\.1: within each of 4 groups all rewards are equal \(means: never 0\)"):
        preflight(RolloutGenerator(settings(), context, 0, model, never), model, "train.1")
    with pytest.raises(ModelError, match="all rewards are equal"):  # one hit among all items: twelve draws hit anyway
        preflight(RolloutGenerator(settings(group_size=12, pass_at_k=12), context, 0, model, never), model, "train.1")
    bonus = preflight(
        RolloutGenerator(settings(group_size=12, pass_at_k=2), context, 0, model, never), model, "train.1"
    )
    assert bonus["groups that differ"] == 1
    cold = settings(sampling="with-replacement", temperature=1e-4)
    with pytest.raises(ModelError, match=r"all 6 samples of every group are one item.*Raise train\.1\.temperature"):
        preflight(RolloutGenerator(cold, context, 0, model), model, "train.1")
    everything = TrainPositions(Sequences.of([np.arange(12)] * 4), np.arange(4), np.full(4, 11), False, 12)
    full = replace(context, positions=everything)
    object.__setattr__(full.positions, "filters", lambda positions, trie: [_nothing(trie) for _ in positions])
    with pytest.raises(ModelError, match="at none of 4 positions may any item be recommended"):
        preflight(RolloutGenerator(settings(), full, 0, model), model, "train.1")


def _nothing(trie: Any) -> Any:
    from llmrec.decode.filters import Filter

    return Filter.of(trie, np.arange(len(trie)))


def test_training_raises_the_probability_of_what_is_rewarded_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    context = alignment_context()

    def train(work: Path, stop_at: int = 0) -> tuple[Any, Any]:
        model = family("llama")
        stage = settings(batch=4, epochs=20, learning_rate=1.5e-2, warmup=0.0, save_every=5, kl=0.01, advantage="grpo")
        generator = RolloutGenerator(stage, context, 0, frozen_copy(model))

        def progress(done: float) -> None:
            if stop_at and round(done * 20) == stop_at:
                raise KeyboardInterrupt

        loop.train(model, PositionRows(4), stage, generator.objective(), 0, work, 0.0, progress)
        return model.eval(), generator

    taken = torch.from_numpy(context.positions.targets.astype(np.int64))[:, None]
    before = exact(family("llama"), context).gather(1, taken).exp().mean()
    whole, _ = train(tmp_path / "whole")
    assert exact(whole, context).gather(1, taken).exp().mean() > before + 0.2
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", 13)
    again, _ = train(tmp_path / "broken")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Draws of all items come in another order, and Adam turns the rounding into steps where a gradient is nearly 0."""
    in_two_processes(main, tmp_path / "two")
    start = family("llama").state_dict()
    for users in (5, 1):
        one, two = train_on_all(tmp_path / str(users), users), torch.load(tmp_path / "two" / f"{users}.pt")
        moved = torch.cat([(one[name] - start[name]).flatten() for name in start])
        apart = torch.cat([(one[name] - two[name]).flatten() for name in start])
        assert moved.abs().mean() > 1e-3 and apart.abs().mean() < 0.02 * moved.abs().mean()
        mine, other = ((tmp_path / part / str(users) / "log.jsonl").read_text() for part in (".", "two"))
        assert [set(json.loads(line)) for line in mine.splitlines()] == [set(json.loads(x)) for x in other.splitlines()]


def test_every_reward_of_a_recipe_has_a_function() -> None:
    from typing import get_args

    from llmrec.recipe import RewardName

    assert set(get_args(RewardName)) == set(REWARDS)
