"""From a prompt to the text a model reads: through the base's chat template where it has one, plainly where not."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def wrap(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[str, int]:
    """The text that an answer follows directly.

    Returns:
        The text without a beginning-of-text token, and where in it the prompt starts.
    """
    if not tokenizer.chat_template:
        return prompt, 0
    mark = "\u2063prompt\u2063"  # not the prompt itself: a template may trim or escape what it is given
    text = str(
        tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    )
    start = text.index(mark)
    return text.replace(mark, prompt, 1), start


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Tokens of a prompt, ready for an answer to follow."""
    text, _ = wrap(tokenizer, prompt)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])
