"""Format prompts for a model: by the base's chat template if it has one, as they are otherwise.

A prompt is one user turn. A conversation is a prompt with further lines that begin with "Assistant: " or "User: ",
alternating; texts of the data have no line breaks, so they cannot open a turn.
"""

from __future__ import annotations

import re
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.model.loading import as_model_error

_TEMPLATES: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, int], list[str]]] = WeakKeyDictionary()
_TURN = re.compile(r"\n(Assistant|User): ")


def format_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, label: str = "") -> tuple[str, int]:
    """Format a prompt or conversation so that the answer follows directly.

    Args:
        tokenizer: of the base.
        prompt: or conversation.
        label: text between question and answer if there is no chat template, such as "\\nRating:"; "" leaves prompts
            and conversations as they are.

    Returns:
        The text without a beginning-of-text token, and where in it the prompt (or the first turn) starts.
    """
    if not tokenizer.chat_template:
        return _labelled(prompt, label) if label else prompt, 0
    conversation = turns(prompt)
    parts = _template_parts(tokenizer, len(conversation))
    texts = [turn["content"] + after for turn, after in zip(conversation, parts[1:], strict=True)]
    return parts[0] + "".join(texts), len(parts[0])


def _labelled(prompt: str, label: str) -> str:
    """Questions and answers of a conversation, each pair a paragraph, and the last question with its label."""
    texts = [turn["content"] for turn in turns(prompt)]
    pairs = zip(texts[::2], texts[1::2], strict=False)
    return "".join(f"{question}{label} {answer}\n\n" for question, answer in pairs) + texts[-1] + label


def format_prompts(tokenizer: PreTrainedTokenizerBase, prompts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Format (prompts,) strings as by `format_prompt`: (prompts,) texts, and (prompts,) int64 starts of the prompts."""
    if not tokenizer.chat_template:
        return prompts, np.zeros(len(prompts), np.int64)
    if pc.any(pc.match_substring_regex(prompts, _TURN.pattern)).as_py():
        texts, starts = zip(*(format_prompt(tokenizer, prompt) for prompt in prompts.to_pylist()), strict=True)
        return pa.array(texts, pa.string()), np.array(starts, np.int64)
    before, after = _template_parts(tokenizer, 1)
    return pc.binary_join_element_wise(before, prompts, after, ""), np.full(len(prompts), len(before))


def _template_parts(tokenizer: PreTrainedTokenizerBase, turns: int) -> list[str]:
    """The text of the chat template before, between and after the turns of a conversation; cached, since it is slow."""
    cache = _TEMPLATES.setdefault(tokenizer, {})
    key = (str(tokenizer.chat_template), turns)
    if key not in cache:
        # placeholders, not the turns themselves: a template may trim or escape them
        marks = [f"\u2063turn {number}\u2063" for number in range(turns)]
        messages = [{"role": ("user", "assistant")[n % 2], "content": mark} for n, mark in enumerate(marks)]
        with as_model_error(tokenizer.name_or_path):
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        if re.findall("\u2063turn \\d+\u2063", text) != marks:
            raise ModelError(
                f"{tokenizer.name_or_path} cannot be used: its chat template does not give each turn of a conversation "
                "once and in order. Copy the folder again, or remove the template (chat_template) for plain prompts."
            )
        cache[key] = re.split("|".join(marks), text)
    return cache[key]


def turns(prompt: str) -> list[dict[str, str]]:
    """The turns of a conversation as chat messages; a plain prompt is one user turn."""
    first, *rest = _TURN.split(prompt)
    later = [{"role": role.lower(), "content": text} for role, text in zip(rest[::2], rest[1::2], strict=True)]
    return [{"role": "user", "content": first}, *later]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, label: str = "") -> list[int]:
    """Token ids of a formatted prompt; arguments as for `format_prompt`."""
    text, _ = format_prompt(tokenizer, prompt, label)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])
