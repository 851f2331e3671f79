"""Losses of preference against closed forms, and against TRL's trainer on the same answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from aligned_models import VOCABULARY, family, gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.align.dpo import ipo, margin, pairwise_dpo, preference_loss, softmax_dpo
from llmrec.align.shared_prefix import answer_logprobs, build_shared_prefix_batch

gains = st.lists(st.floats(-20, 20), min_size=2, max_size=6)


@settings(deadline=None, max_examples=60)
@given(gains, st.floats(0.05, 2))
def test_losses_are_their_closed_forms(found: list[float], beta: float) -> None:
    chosen, rejected = torch.tensor(found[:1], dtype=torch.float64), torch.tensor([found[1:]], dtype=torch.float64)
    weights = [math.exp(beta * value) for value in found]
    assert softmax_dpo(chosen, rejected, beta).item() == pytest.approx(-math.log(weights[0] / sum(weights)), abs=1e-9)
    pairs = [math.log1p(math.exp(beta * (value - found[0]))) for value in found[1:]]
    assert pairwise_dpo(chosen, rejected, beta).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)
    squares = [(found[0] - value - 1 / (2 * beta)) ** 2 for value in found[1:]]
    assert ipo(chosen, rejected, beta).item() == pytest.approx(sum(squares) / len(squares), rel=1e-9)


def test_with_one_rejected_answer_s_dpo_is_dpo_and_at_the_reference_it_is_log_of_the_answers() -> None:
    chosen, rejected = torch.randn(7), torch.randn(7, 1)
    torch.testing.assert_close(softmax_dpo(chosen, rejected, 0.3), pairwise_dpo(chosen, rejected, 0.3))
    assert softmax_dpo(torch.zeros(1), torch.zeros(1, 15), 0.1).item() == pytest.approx(math.log(16), rel=1e-6)


def test_ipo_stops_where_answers_are_far_enough_apart() -> None:
    chosen = torch.tensor([5.0], requires_grad=True)
    ipo(chosen, torch.zeros(1, 3), 0.1).sum().backward()
    assert chosen.grad is not None and chosen.grad.item() == 0


def test_the_margin_is_over_the_best_rejected_answer() -> None:
    assert margin(torch.tensor([[1.0, 0.5, 2.0], [3.0, -1.0, 0.0]])).tolist() == [-1.0, 3.0]


@pytest.mark.parametrize(("method", "loss_type"), [("s-dpo", "sigmoid"), ("dpo", "sigmoid"), ("ipo", "ipo")])
def test_loss_and_gradient_are_those_of_trls_trainer(method: str, loss_type: str, tmp_path: Path) -> None:
    """TRL scores chosen and rejected in rows of their own, padded; its reference is a second model."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    draw, rows, beta = np.random.default_rng(0), 4, 0.3
    prompts = [draw.integers(2, VOCABULARY, length) for length in (3, 9, 5, 6)]
    answers = [draw.integers(2, VOCABULARY, (2, 4)) for _ in prompts]
    answers[1][0, 3:] = -1
    model, frozen = family("llama"), family("llama", seed=1)
    words = Tokenizer(models.WordLevel({f"t{n}": n for n in range(VOCABULARY)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1")
    data = Dataset.from_list([{"prompt": "t2", "chosen": "t3", "rejected": "t4"}])
    config = DPOConfig(
        output_dir=str(tmp_path), beta=beta, loss_type=[loss_type], report_to=[], use_cpu=True, bf16=False
    )
    trainer = DPOTrainer(model, frozen, args=config, train_dataset=data, processing_class=tokenizer)
    lines = [
        np.concatenate([prompt, answer[side][answer[side] >= 0]])
        for side in (0, 1)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    width = max(map(len, lines))
    batch = {name: torch.zeros(2 * rows, width, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["completion_mask"] = torch.zeros(2 * rows, width, dtype=torch.long)
    for row, line in enumerate(lines):
        batch["input_ids"][row, : len(line)] = torch.from_numpy(line)
        batch["attention_mask"][row, : len(line)] = 1
        batch["completion_mask"][row, len(prompts[row % rows]) : len(line)] = 1
    theirs = trainer._compute_loss(trainer.model, batch, False)
    truth = gradients(model, theirs)
    batch = build_shared_prefix_batch(prompts, answers)
    with torch.no_grad():
        reference = answer_logprobs(frozen, batch).sum(2)
    lengths = (batch["answers"] >= 0).sum(2)
    ours, _ = preference_loss(method, answer_logprobs(model, batch).sum(2), reference, lengths, beta)
    assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-5)
    for name, value in gradients(model, ours.mean()).items():
        torch.testing.assert_close(value, truth[name], rtol=1e-4, atol=1e-6)
