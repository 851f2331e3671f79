"""The loss and the packing against torch's own cross entropy and TRL's loss, one example at a time."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig, LlamaForCausalLM, PhiConfig

from llmrec.model.adapt import lora
from llmrec.model.base import tiny_base
from llmrec.train import loop, loss
from llmrec.train.encode import Encoded
from llmrec.train.loss import target_logprobs
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
    wanted = labels[:, 1:] != IGNORE
    ours = -target_logprobs(hidden[:, :-1][wanted], labels[:, 1:][wanted], head, chunk).sum()
    truth = torch.nn.functional.cross_entropy(
        head(hidden[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    torch.testing.assert_close(ours, truth)
    for one, other in zip(*(torch.autograd.grad(x, [hidden, head.weight]) for x in (ours, truth)), strict=True):
        torch.testing.assert_close(one, other)


def test_pieces_that_a_cpu_takes_change_neither_loss_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(30, 8, requires_grad=True), torch.nn.Linear(8, 13)
    targets = torch.randint(13, (30,))
    whole = target_logprobs(hidden, targets, head)
    monkeypatch.setattr(loss, "_CPU_POSITIONS", 7)  # 30 positions: the last piece is a short one
    cut = target_logprobs(hidden, targets, head)
    torch.testing.assert_close(cut, whole)
    for one, other in zip(*(torch.autograd.grad(x.sum(), [hidden, head.weight]) for x in (cut, whole)), strict=True):
        torch.testing.assert_close(one, other)


def test_no_positions_have_no_logprobs() -> None:
    targets = torch.zeros(0, dtype=torch.int64)
    assert target_logprobs(torch.randn(0, 4), targets, torch.nn.Linear(4, 3)).shape == (0,)


@pytest.mark.parametrize("pack_length", [16, 31, 64])
def test_packed_rows_give_the_loss_and_gradients_of_separate_examples(pack_length: int) -> None:
    llama, parts = model(), examples()
    rows = PackedRows(parts, pack_length, np.random.default_rng(1))
    batch = collate([rows[row] for row in range(len(rows))])
    packed = loss.supervised_loss(llama, **batch, num_items_in_batch=1).loss
    truth = plain_loss(llama, parts)
    torch.testing.assert_close(packed, truth, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(llama, packed), gradients(llama, truth), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_without_a_count_the_loss_is_the_mean_over_supervised_tokens() -> None:
    llama, parts = model(), examples()
    rows = PackedRows(parts, 40, np.random.default_rng(1))
    batch = collate([rows[row] for row in range(len(rows))])
    mean = loss.supervised_loss(llama, **batch).loss
    torch.testing.assert_close(mean, plain_loss(llama, parts) / rows.supervised, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pack_length", [15, 40])
def test_packing_places_every_example_once_and_overfills_no_row(pack_length: int) -> None:
    draw = np.random.default_rng(3)
    lengths = draw.integers(1, 20, 500)
    rows = pack(lengths, pack_length, draw.permutation(500))
    assert sorted(example for row in rows for example in row) == list(range(500))
    for row in rows:
        assert lengths[row].sum() <= pack_length or len(row) == 1
    # a first fit leaves no two rows that could be one, but for those it no longer looks back on
    assert len(rows) < 1.2 * lengths.sum() / pack_length + 70


def test_dropout_is_on_while_training_only_and_leaves_the_model_plain() -> None:
    llama = model()
    ids = torch.randint(50, (1, 9))
    before = llama(ids).logits
    with loop._dropped(llama, 0.5):
        assert torch.equal(llama.eval()(ids).logits, before)
        assert not torch.equal(llama.train()(ids).logits, before)
    assert torch.equal(llama(ids).logits, before)


SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
HEADS = {
    "tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "untied": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "with a bias": PhiConfig(**SHAPE),
    "bent under a cap": Gemma2Config(**SHAPE, head_dim=16, num_key_value_heads=2, final_logit_softcapping=2.0),
    "scaled": GraniteConfig(**SHAPE, num_key_value_heads=2, logits_scaling=4.0),
}


def wrapped(name: str) -> Any:
    """A model with one kind of output head; "adapted" ones are peft's, with rows of new tokens that train apart."""
    torch.manual_seed(1)
    llama: Any = AutoModelForCausalLM.from_config(HEADS[name.removeprefix("adapted, ")], attn_implementation="sdpa")
    if head_bias := getattr(llama.get_output_embeddings(), "bias", None) is not None:
        torch.nn.init.normal_(llama.get_output_embeddings().bias)
    assert head_bias == (name.endswith("bias"))
    if not name.startswith("adapted"):
        return llama
    adapted = lora(llama, 4, np.arange(40, 50))
    for key, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3 if "delta" in key else 0.1)
    return adapted.eval()


@pytest.mark.parametrize("name", [*HEADS, "adapted, tied", "adapted, untied", "adapted, with a bias"])
@pytest.mark.parametrize("chunk", [60, 2**25])
def test_every_kind_of_head_gives_plain_cross_entropy_and_its_gradients(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the model's own forward pass, to 1e-5; a chunk of 60 logits is a position at a time."""
    whole, parts = wrapped(name), examples(12)
    rows = PackedRows(parts, 31, np.random.default_rng(1))
    batch = collate([rows[row] for row in range(len(rows))])
    monkeypatch.setattr(loss, "target_logprobs", partial(target_logprobs, chunk=chunk))
    ours, truth = loss.supervised_loss(whole, **batch).loss, plain_loss(whole, parts) / rows.supervised
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    trained = [parameter for parameter in whole.parameters() if parameter.requires_grad]
    for one, other in zip(torch.autograd.grad(ours, trained), torch.autograd.grad(truth, trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert one.abs().max() > 0


def test_the_loss_is_trls_on_the_same_examples_in_value_and_gradient(tmp_path: Path) -> None:
    """Prompt and completion, as SFTTrainer takes them, padded one a row there and packed here."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    words = ["Somebody picked these, oldest first.", "What comes next? Name one item of the list, please."] * 3
    torch.manual_seed(0)
    llama, tokenizer = tiny_base("llama", words, tmp_path / "tokenizer")
    cut = [word.index(" ", 5 + 3 * number) for number, word in enumerate(words)]
    given = [{"prompt": word[:at], "completion": word[at:]} for word, at in zip(words, cut, strict=True)]
    arguments = SFTConfig(output_dir=str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to=[])
    loop = SFTTrainer(
        copy.deepcopy(llama), arguments, train_dataset=Dataset.from_list(given), processing_class=tokenizer
    )
    theirs = loop.compute_loss(loop.model, dict(loop.data_collator(list(loop.train_dataset))))
    parts = [Encoded(np.array(row["input_ids"]), np.array(row["labels"]) != IGNORE) for row in loop.train_dataset]
    rows = PackedRows(parts, 40, np.random.default_rng(0))
    assert len(rows) < len(parts)
    ours = loss.supervised_loss(llama, **collate([rows[row] for row in range(len(rows))])).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    pairs = zip(gradients(llama, ours), gradients(loop.model, theirs), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
