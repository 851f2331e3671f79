"""The prompt computed once: branches of one row score, and teach, what separate rows do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from aligned_models import FAMILIES, VOCABULARY, cases, family, gradients, separate

from llmrec.align.shared_prefix import answer_logprobs, build_shared_prefix_batch, policy_logprobs
from llmrec.train.packing import IGNORE


def assert_same(model: Any, one: torch.Tensor, other: torch.Tensor) -> None:
    """Values and the gradients of a mix of them agree to 1e-5."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    mix = torch.linspace(-1, 1, one.numel()).reshape(one.shape)
    mine, theirs = gradients(model, (one * mix).sum()), gradients(model, (other * mix).sum())
    assert mine.keys() == theirs.keys() and any(value.abs().max() > 1e-3 for value in theirs.values())
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_in_one_row_score_and_teach_what_separate_rows_do(name: str, attention: str) -> None:
    model, (prompts, answers) = family(name, attn_implementation=attention), cases()
    truth = []
    for table, logits in zip(answers, separate(model, prompts, answers), strict=True):
        wanted = torch.from_numpy(table)
        scores = logits.log_softmax(-1).gather(2, wanted.clamp(min=0)[..., None])[..., 0]
        truth.append(scores * (wanted >= 0))
    assert_same(model, answer_logprobs(model, build_shared_prefix_batch(prompts, answers)), torch.stack(truth))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_policy_is_what_is_left_of_the_model_when_all_else_is_masked(name: str) -> None:
    model, (prompts, answers) = family(name), cases()
    draw, tokens = np.random.default_rng(1), torch.randperm(VOCABULARY)[:40].sort().values
    answers = [np.where(table >= 0, tokens.numpy()[draw.integers(0, 40, table.shape)], -1) for table in answers]
    batch = build_shared_prefix_batch(prompts, answers)
    symbols = torch.searchsorted(tokens, batch["answers"].clamp(min=int(tokens[0])))
    allowed = torch.from_numpy(draw.random((*symbols.shape, 40)) < 0.3)
    allowed.scatter_(3, symbols[..., None], True)
    allowed[:, :, 0] = allowed[:, :1, 0] | torch.nn.functional.one_hot(symbols[:, :, 0], 40).bool().any(1, keepdim=True)
    truth = torch.zeros(symbols.shape)
    for row, logits in enumerate(separate(model, prompts, answers)):
        masked = (logits[..., tokens] / 0.7).masked_fill(~allowed[row], -torch.inf)
        scores = masked.log_softmax(-1).gather(2, symbols[row][..., None])[..., 0]
        truth[row] = torch.where(batch["answers"][row] != IGNORE, scores, 0)
    assert_same(model, policy_logprobs(model, batch, allowed, tokens, symbols, 0.7), truth)


def test_a_policy_without_choice_is_certain_and_teaches_exactly_nothing() -> None:
    model, (prompts, answers) = family("llama"), cases()
    batch = build_shared_prefix_batch(prompts, answers)
    symbols, tokens = batch["answers"].clamp(min=0), torch.arange(VOCABULARY)
    only = torch.nn.functional.one_hot(symbols, VOCABULARY).bool()
    only[:, :, 0] = only[:, :1, 0]  # what begins an answer is shared by all answers of a row
    symbols = torch.where(torch.arange(symbols.shape[2]) == 0, symbols[:, :1], symbols)
    scores = policy_logprobs(model, batch, only, tokens, symbols)
    assert (scores == 0).all()
    assert all((value == 0).all() for value in gradients(model, scores.sum()).values())


def test_an_empty_row_counts_for_nothing() -> None:
    model, (prompts, answers) = family("llama"), cases()
    nothing = np.full((4, 4), -1)
    whole = answer_logprobs(model, build_shared_prefix_batch([*prompts, prompts[0][:1]], [*answers, nothing]))
    torch.testing.assert_close(
        whole[:-1], answer_logprobs(model, build_shared_prefix_batch(prompts, answers)), rtol=1e-5, atol=1e-6
    )
    assert (whole[-1] == 0).all()
