"""Tokenizers of two kinds, with item tokens and the control tokens of many bases."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llmrec.model import nano
from llmrec.model.vocabulary import add_tokens
from llmrec.recipe import TASKS
from llmrec.resources import asset_path
from llmrec.tasks import templates

CODES = [*(f"<a_{number}>" for number in range(100)), "<b_0>"]
CONTROL = ["[INST]", "[/INST]", "<start_of_turn>", "<｜User｜>", "<extra_id_0>"]


@pytest.fixture(scope="session")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    """SentencePiece without a chat template, byte-level with one. Tests must not change them."""
    words = [template.prompt for task in TASKS for template in templates.load(task).train]
    plain = nano.train_tokenizer(words, 500, tmp_path_factory.mktemp("tokenizer"))
    plain.add_special_tokens({"additional_special_tokens": CONTROL})
    base = asset_path("smollm2-135m-instruct")
    chatty = AutoTokenizer.from_pretrained(base, gguf_file=next(base.glob("*.gguf")).name)
    for one in (plain, chatty):
        add_tokens(one, CODES)
    return {"sentencepiece": plain, "byte-level": chatty}
