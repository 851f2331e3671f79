"""Prompts as a model reads them: one turn or a talk, whatever the words are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llmrec.model.prompting import format_prompt, turns
from llmrec.resources import asset_path

WORDS = st.text(min_size=1, max_size=20).map(lambda text: text.replace("\n", " "))


@pytest.fixture(scope="module")
def chatty() -> PreTrainedTokenizerBase:
    base: Path = asset_path("smollm2-135m-instruct")
    return AutoTokenizer.from_pretrained(base, gguf_file=next(base.glob("*.gguf")).name)


@given(st.lists(WORDS, min_size=1, max_size=5).filter(lambda said: len(said) % 2 == 1))
def test_a_talk_is_wrapped_as_the_chat_template_says(chatty: PreTrainedTokenizerBase, said: list[str]) -> None:
    roles = ["user", "assistant"] * 3
    prompt = said[0] + "".join(f"\n{role.title()}: {words}" for role, words in zip(roles[1:], said[1:], strict=False))
    talk = [{"role": role, "content": words} for role, words in zip(roles, said, strict=False)]
    assert turns(prompt) == talk
    text, start = format_prompt(chatty, prompt)
    assert text == chatty.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text[start : start + len(said[0])] == said[0]


def test_without_a_template_the_prompt_is_the_text(chatty: PreTrainedTokenizerBase) -> None:
    template, chatty.chat_template = chatty.chat_template, None
    talk = "a\nAssistant: b\nUser: c"
    assert format_prompt(chatty, talk) == (talk, 0)
    assert format_prompt(chatty, talk, "\nRating:") == ("a\nRating: b\n\nc\nRating:", 0)
    assert format_prompt(chatty, "c", "\nRating:") == ("c\nRating:", 0)
    chatty.chat_template = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}>"
    assert format_prompt(chatty, " a ") == ("[ a ]>", 1)  # the template in use now, and words as they are
    chatty.chat_template = template
