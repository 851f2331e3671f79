"""Pretrained bases: new rows and adapters train and nothing else does; what is saved is plain and says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.model import folder as model_folder
from llmrec.model.adapt import grow, lora, merged, moved
from llmrec.model.base import load_base, tiny_base
from llmrec.model.prompting import encode, wrap
from llmrec.model.vocabulary import add_tokens, token_ids
from llmrec.recipe import Sft
from llmrec.train import sft
from llmrec.train.encode import Encoded
from llmrec.train.packing import PackedRows

BASES = ["embedded:smollm2-135m-instruct", "Qwen/Qwen3-0.6B", "google/gemma-2-2b-it", "mistralai/Mistral", "phi-4-mini"]
CODES = [f"<a_{number}>" for number in range(6)] + [f"<b_{number}>" for number in range(5)]
WORDS = ["Somebody picked these, oldest first.", "What comes next? Name one item of the list, please."] * 3


def base_with_codes(name: str, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, np.ndarray]:
    torch.manual_seed(0)
    model, tokenizer = tiny_base(name, WORDS, folder)
    rows = add_tokens(tokenizer, CODES)
    new = token_ids(tokenizer, CODES)
    grow(model, rows, new, seed=3)
    return model, tokenizer, new


def rows_of(tokenizer: PreTrainedTokenizerBase) -> PackedRows:
    ids = np.array(encode(tokenizer, "What comes next? <a_1><b_2><a_3><b_4>"))
    return PackedRows([Encoded(ids, ids >= min(token_ids(tokenizer, CODES)))] * 8, 64, np.random.default_rng(0))


def train(model: Any, tokenizer: PreTrainedTokenizerBase, work: Path) -> None:
    stage = Sft(epochs=2, batch=2, learning_rate=1e-2, save_every=100)
    sft.train(model, rows_of(tokenizer), stage, 0, work, 0.0, lambda done: None)


@pytest.mark.parametrize("name", BASES)
def test_lora_trains_adapters_and_new_rows_alone_and_merges_to_the_same_logits(name: str, tmp_path: Path) -> None:
    model, tokenizer, new = base_with_codes(name, tmp_path / "tokenizer")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rows = model.get_input_embeddings().weight[new.tolist()].detach().clone()
    adapted = lora(model, 4, new)
    for key, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in key or "trainable_tokens_delta" in key), key
    train(adapted, tokenizer, tmp_path / "work")
    prompt = torch.tensor([encode(tokenizer, "What comes next? <a_1><b_2>")])
    with torch.no_grad():
        expected = adapted.eval()(prompt).logits
    plain = merged(adapted, tmp_path)
    model_folder.save(plain, tokenizer, model_folder.Note("hash", 3, "{history}", "{history}"), tmp_path / "model")
    loaded, _, _ = model_folder.load(tmp_path / "model", torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.cpu()(prompt).logits, expected, rtol=1e-4, atol=1e-4)
    old = np.setdiff1d(np.arange(new.min()), new)
    after = loaded.state_dict()
    assert torch.equal(after["model.embed_tokens.weight"][old], before["model.embed_tokens.weight"][old])
    assert all(torch.equal(after[key], before[key]) for key in before if "norm" in key)
    assert moved(rows, loaded, new)["mean distance"] > 0
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_growing_leaves_old_rows_as_they_were_and_tells_new_ones_apart(tmp_path: Path) -> None:
    model, tokenizer = tiny_base("llama", WORDS, tmp_path)
    before = model.get_input_embeddings().weight.detach().clone()
    rows = add_tokens(tokenizer, CODES)
    new = token_ids(tokenizer, CODES)
    grow(model, rows, new, seed=1)
    after = model.get_input_embeddings().weight.detach()
    assert torch.equal(after[: len(before)], before)
    assert len(after) == rows and rows % 64 == 0
    assert len(torch.unique(after[new], dim=0)) == len(new)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_local_folder_is_a_base(tmp_path: Path) -> None:
    model, tokenizer = tiny_base("Qwen/Qwen3-0.6B", WORDS, tmp_path / "tokenizer")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    loaded, again = load_base(str(tmp_path / "base"), torch.float32)
    assert loaded.config.model_type == "qwen3"
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert again.chat_template == tokenizer.chat_template
    assert encode(again, WORDS[0]) == encode(tokenizer, WORDS[0])


def test_rows_that_did_not_move_fail_loudly(tmp_path: Path) -> None:
    from llmrec.errors import ModelError

    model, _, new = base_with_codes("llama", tmp_path)
    with pytest.raises(ModelError, match="no embedding row"):
        moved(model.get_input_embeddings().weight[new.tolist()].detach().clone(), model, new)


def test_a_prompt_stands_whole_in_the_chat_template(tmp_path: Path) -> None:
    _, tokenizer = tiny_base("llama", WORDS, tmp_path)
    prompt = "  {{ braces }} and <b>tags</b>  "
    text, start = wrap(tokenizer, prompt)
    assert text[start : start + len(prompt)] == prompt
    assert text == f"user: {prompt}\nassistant: "


@pytest.mark.parametrize("name", ["embedded:minilm-l6", "/nowhere/at/all", "embedded:nothing"])
def test_a_base_that_cannot_be_loaded_says_what_may_be_given(name: str) -> None:
    from llmrec.errors import LlmrecError

    with pytest.raises(LlmrecError, match=r"embedded|llmrec setup"):
        load_base(name, torch.float32)
