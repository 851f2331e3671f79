"""From a prompt to the text a model reads: through the base's chat template where it has one, plainly where not.

A prompt is what a user says. A talk is a prompt with further lines that begin with "Assistant: " or "User: ", in turn;
texts of the data have no line breaks, so they cannot open a turn.
"""

from __future__ import annotations

import re
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from llmrec import resources
from llmrec.errors import ModelError
from llmrec.model.loading import explained, tokenizer_from

_FRAMES: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, int], list[str]]] = WeakKeyDictionary()
_TURN = re.compile(r"\n(Assistant|User): ")


def wrap(tokenizer: PreTrainedTokenizerBase, prompt: str, label: str = "") -> tuple[str, int]:
    """The text that an answer follows directly.

    Args:
        tokenizer: of the base.
        prompt: or talk.
        label: what stands between question and answer where there is no chat template, such as "\\nRating:"; "" leaves
            prompts and talks as they are.

    Returns:
        The text without a beginning-of-text token, and where in it the prompt (of a talk, its first turn) starts.
    """
    if not tokenizer.chat_template:
        return _labelled(prompt, label) if label else prompt, 0
    said = turns(prompt)
    frame = _frame(tokenizer, len(said))
    words = [turn["content"] + after for turn, after in zip(said, frame[1:], strict=True)]
    return frame[0] + "".join(words), len(frame[0])


def _labelled(prompt: str, label: str) -> str:
    """Questions of a talk and their answers, each pair a paragraph, and the last question with its label."""
    said = [turn["content"] for turn in turns(prompt)]
    solved = zip(said[::2], said[1::2], strict=False)
    return "".join(f"{asked}{label} {answer}\n\n" for asked, answer in solved) + said[-1] + label


def wrap_all(tokenizer: PreTrainedTokenizerBase, prompts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """`wrap` for many prompts at once.

    Args:
        tokenizer: of the base.
        prompts: (prompts,) strings.

    Returns:
        (prompts,) texts, and (prompts,) int64 where in each its prompt starts.
    """
    if not tokenizer.chat_template:
        return prompts, np.zeros(len(prompts), np.int64)
    if pc.any(pc.match_substring_regex(prompts, _TURN.pattern)).as_py():
        texts, starts = zip(*(wrap(tokenizer, prompt) for prompt in prompts.to_pylist()), strict=True)
        return pa.array(texts, pa.string()), np.array(starts, np.int64)
    before, after = _frame(tokenizer, 1)
    return pc.binary_join_element_wise(before, prompts, after, ""), np.full(len(prompts), len(before))


def _frame(tokenizer: PreTrainedTokenizerBase, turns: int) -> list[str]:
    """What the chat template puts before, between and behind the words of a talk: asked for once, since it is slow."""
    known = _FRAMES.setdefault(tokenizer, {})
    key = (str(tokenizer.chat_template), turns)
    if key not in known:
        # marks, not the turns themselves: a template may trim or escape what it is given
        marks = [f"\u2063turn {number}\u2063" for number in range(turns)]
        talk = [{"role": ("user", "assistant")[at % 2], "content": mark} for at, mark in enumerate(marks)]
        with explained(tokenizer.name_or_path):
            text = str(tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))
        if re.findall("\u2063turn \\d+\u2063", text) != marks:
            raise ModelError(
                f"{tokenizer.name_or_path} cannot be used: its chat template does not give each turn of a talk once "
                "and in order. Copy the folder again, or remove the template (chat_template) for plain prompts."
            )
        known[key] = re.split("|".join(marks), text)
    return known[key]


def turns(prompt: str) -> list[dict[str, str]]:
    """The turns of a talk as chat templates take them; a plain prompt is one turn of the user's."""
    first, *rest = _TURN.split(prompt)
    later = [{"role": role.lower(), "content": words} for role, words in zip(rest[::2], rest[1::2], strict=True)]
    return [{"role": "user", "content": first}, *later]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, label: str = "") -> list[int]:
    """Tokens of a prompt, ready for an answer to follow; `label` as in `wrap`."""
    text, _ = wrap(tokenizer, prompt, label)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained base, without its weights.

    Args:
        name: `embedded:NAME`, a folder, or a hub name.

    Raises:
        ModelError: there is none of that name.
    """
    if not name.startswith("embedded:"):
        return tokenizer_from(name)
    folder = resources.asset_path(name.removeprefix("embedded:"))
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ModelError(f"model.base: '{name}' is not a language model, so it has no tokenizer for prompts.")
    return tokenizer_from(folder, gguf_file=files[0].name)
