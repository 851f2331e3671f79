"""A talk as a base reads it: by its chat template, or as plain text in which each question ends in a label."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from llmrec.model.prompting import turns, wrap

LABEL = "\nRating:"


def text_of(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What stands before the answer; a base without a chat template is shown earlier questions with their answers."""
    if tokenizer.chat_template:
        return wrap(tokenizer, prompt)[0]
    said = [turn["content"] for turn in turns(prompt)]
    solved = zip(said[::2], said[1::2], strict=False)
    return "".join(f"{asked}{LABEL} {answer}\n\n" for asked, answer in solved) + said[-1] + LABEL


def written(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[str]:
    """Ratings as they follow that text."""
    return words if tokenizer.chat_template else [f" {word}" for word in words]
