"""The loss, the packing and the loop against torch's own cross entropy, one example at a time."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.recipe import Sft
from llmrec.train import sft
from llmrec.train.encode import Encoded
from llmrec.train.loss import label_logprobs
from llmrec.train.packing import IGNORE, PackedRows, collate, pack


def model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, tie_word_embeddings=True, **shape))


def examples(count: int = 9, seed: int = 0) -> list[Encoded]:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 15, count)
    return [
        Encoded(draw.integers(1, 50, n), np.concatenate([[False], draw.random(n - 1) < 0.6, [True]])[:n])
        for n in lengths
    ]


def plain_loss(llama: LlamaForCausalLM, parts: list[Encoded]) -> torch.Tensor:
    """Sum of cross entropy, example by example, through transformers' own forward pass."""
    total = torch.zeros(())
    for part in parts:
        logits = llama(torch.from_numpy(part.tokens)[None]).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.tokens)[1:], reduction="none")
        total = total + losses[torch.from_numpy(part.supervised)[1:]].sum()
    return total


def gradients(llama: LlamaForCausalLM, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(llama.parameters())))


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_the_loss_is_cross_entropy_in_value_and_gradient_chunked_or_not(chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 11, 8, requires_grad=True)
    head = torch.nn.Linear(8, 13, bias=False)
    labels = torch.randint(13, (3, 11))
    labels[torch.rand(3, 11) < 0.4] = IGNORE
    ours = -label_logprobs(hidden, labels, head, chunk).sum()
    truth = torch.nn.functional.cross_entropy(
        head(hidden[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    torch.testing.assert_close(ours, truth)
    for one, other in zip(*(torch.autograd.grad(x, [hidden, head.weight]) for x in (ours, truth)), strict=True):
        torch.testing.assert_close(one, other)


def test_rows_without_anything_supervised_have_no_logprobs() -> None:
    labels = torch.full((2, 5), IGNORE)
    assert label_logprobs(torch.randn(2, 5, 4), labels, torch.nn.Linear(4, 3)).shape == (0,)


@pytest.mark.parametrize("row_tokens", [16, 31, 64])
def test_packed_rows_give_the_loss_and_gradients_of_separate_examples(row_tokens: int) -> None:
    llama, parts = model(), examples()
    rows = PackedRows(parts, row_tokens, np.random.default_rng(1))
    batch = collate([rows[row] for row in range(len(rows))])
    packed = sft.scored(llama, **batch, num_items_in_batch=1).loss
    truth = plain_loss(llama, parts)
    torch.testing.assert_close(packed, truth, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(llama, packed), gradients(llama, truth), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_without_a_count_the_loss_is_the_mean_over_supervised_tokens() -> None:
    llama, parts = model(), examples()
    rows = PackedRows(parts, 40, np.random.default_rng(1))
    batch = collate([rows[row] for row in range(len(rows))])
    mean = sft.scored(llama, **batch).loss
    torch.testing.assert_close(mean, plain_loss(llama, parts) / rows.supervised, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row_tokens", [15, 40])
def test_packing_places_every_example_once_and_overfills_no_row(row_tokens: int) -> None:
    draw = np.random.default_rng(3)
    lengths = draw.integers(1, 20, 500)
    rows = pack(lengths, row_tokens, draw.permutation(500))
    assert sorted(example for row in rows for example in row) == list(range(500))
    for row in rows:
        assert lengths[row].sum() <= row_tokens or len(row) == 1
    # a first fit leaves no two rows that could be one, but for those it no longer looks back on
    assert len(rows) < 1.2 * lengths.sum() / row_tokens + 70


def step(folder: Path, batch: int, rows: PackedRows) -> dict[str, torch.Tensor]:
    """A model after one step over all rows; smaller batches are gathered up to the same step."""
    llama = model()
    stage = Sft(epochs=1, batch=batch, learning_rate=1e-2, warmup=0.0)
    arguments = sft._arguments(stage, 0, folder)
    arguments.gradient_accumulation_steps = len(rows) // batch
    with sft._own_loss(llama), sft._dropped(llama, 0.0):
        trainer = sft.Trainer(model=llama, args=arguments, train_dataset=rows, data_collator=collate)
        trainer.remove_callback(sft._printer(trainer))
        trainer.train()
    return copy.deepcopy(llama.state_dict())


def test_a_batch_of_eight_trains_like_eight_batches_of_one(tmp_path: Path) -> None:
    """Rows hold different numbers of supervised tokens: the mean must be over tokens of the step, not over rows."""
    rows = PackedRows(examples(8), 2, np.random.default_rng(0))  # every example has a row of its own
    assert len(rows) == 8
    eight, one = step(tmp_path / "eight", 8, rows), step(tmp_path / "one", 1, rows)
    for name, weight in eight.items():
        torch.testing.assert_close(weight, one[name], rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(weight, model().state_dict()[name]) for name, weight in eight.items())


def test_dropout_is_on_while_training_only_and_leaves_the_model_plain() -> None:
    llama = model()
    ids = torch.randint(50, (1, 9))
    before = llama(ids).logits
    with sft._dropped(llama, 0.5):
        assert torch.equal(llama.eval()(ids).logits, before)
        assert not torch.equal(llama.train()(ids).logits, before)
    assert torch.equal(llama(ids).logits, before)


def test_a_loss_that_is_no_number_stops_training_in_words(tmp_path: Path) -> None:
    llama = model()
    with torch.no_grad():
        llama.get_input_embeddings().weight[0] = float("nan")
    tokens = np.zeros(6, np.int64)
    rows = PackedRows([Encoded(tokens, tokens == 0)] * 30, 6, np.random.default_rng(0))
    with pytest.raises(sft.ModelError, match=r"the loss is not a number at step \d+\. Lower train\.N\.learning_rate"):
        sft.train(llama, rows, Sft(epochs=1, batch=1), 0, tmp_path, 0.0, lambda done: None)


def test_a_training_of_three_steps_has_a_log(tmp_path: Path) -> None:
    rows = PackedRows(examples(3), 2, np.random.default_rng(0))
    told: list[float] = []
    sft.train(model(), rows, Sft(epochs=1, batch=1), 0, tmp_path, 0.0, told.append)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3]
    assert told == [pytest.approx(step / 3) for step in (1, 2, 3)]
