"""Pretrained bases: a folder, the embedded one, and those that cannot be used, told in words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from tiny_bases import WORDS

from llmrec.errors import LlmrecError, ModelError
from llmrec.model.base import load_base, tiny_base
from llmrec.model.prompting import encode_prompt, format_prompt


def saved(folder: Path, family: str = "llama") -> Path:
    """A tiny base as a plain folder."""
    model, tokenizer = tiny_base(family, WORDS, folder / "tokenizer")
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"


def test_a_local_folder_is_a_base(tmp_path: Path) -> None:
    model, tokenizer = tiny_base("Qwen/Qwen3-0.6B", WORDS, tmp_path / "tokenizer")
    loaded, again = load_base(str(saved(tmp_path, "Qwen/Qwen3-0.6B")), torch.float32)
    assert loaded.config.model_type == "qwen3"
    assert {key: value.shape for key, value in loaded.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert again.chat_template == tokenizer.chat_template
    assert encode_prompt(again, WORDS[0]) == encode_prompt(tokenizer, WORDS[0])


def test_a_base_without_chat_template_takes_prompts_as_they_are_and_says_so_once(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "chat_template.jinja").unlink()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(2):
            _, tokenizer = load_base(str(folder), torch.float32)
    assert [str(note.message) for note in told if "chat template" in str(note.message)] == [
        f"the base '{folder}' has no chat template: prompts are given to it as they are"
    ]
    assert format_prompt(tokenizer, WORDS[0]) == (WORDS[0], 0)
    assert encode_prompt(tokenizer, WORDS[0])[0] == tokenizer.bos_token_id
    assert WORDS[0] in tokenizer.decode(encode_prompt(tokenizer, WORDS[0]))


def test_a_base_whose_tokenizer_ends_no_text_is_refused_with_what_to_write(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    about = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    del about["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=r"no token that ends a text.*`eos_token` in tokenizer_config\.json"):
        load_base(str(folder), torch.float32)


@pytest.mark.parametrize("name", ["embedded:minilm-l6", "/nowhere/at/all", "embedded:nothing"])
def test_a_base_that_cannot_be_loaded_says_what_may_be_given(name: str) -> None:
    with pytest.raises(LlmrecError, match=r"embedded|not bundled with llmrec\. Known: ml-100k"):
        load_base(name, torch.float32)


def test_a_prompt_stands_whole_in_the_chat_template(tmp_path: Path) -> None:
    _, tokenizer = tiny_base("llama", WORDS, tmp_path)
    prompt = "  {{ braces }} and <b>tags</b>  "
    text, start = format_prompt(tokenizer, prompt)
    assert text[start : start + len(prompt)] == prompt
    assert text == f"user: {prompt}\nassistant: "
