"""Log-probability of each of a few possible answers to a prompt, all tokenized as in training.

Prompt, answer and end are tokenized as one text. What all answers to a prompt begin with counts as the prompt, and what
is left of each is a path of a small trie, so that a model reads a prompt once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.decode.exact import score_all
from llmrec.decode.scorer import Scorer
from llmrec.errors import ModelError
from llmrec.indexing.trie import Trie
from llmrec.model.prompting import wrap
from llmrec.tasks.shorten import Row, shorten
from llmrec.tasks.tokens import CodedTexts

_TOGETHER = 16  # prompts of a batch


def answer_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    answers: Sequence[Sequence[str]],
    progress: Callable[[float], None] = lambda done: None,
) -> list[np.ndarray]:
    """How likely each possible answer to each prompt is, among the possible answers of that prompt.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        rows: examples with `prompt`, `slots` and `task`, as `tasks.maker.SCHEMA` has them; one that is longer than the
            model's window loses the oldest items of its history, as in training.
        answers: the possible answers to each, at least one, all different.
        progress: called with the share done, 0 to 1.

    Returns:
        For each example (answers,) float64 log-probabilities in nats; their exponentials sum to 1.

    Raises:
        ModelError: an example does not fit into the window even with one item of its history; or see `Scorer`.
        CodeError: two answers have the same tokens, or one begins with another and the tokenizer has no end token.
    """
    scorer, tokenize = Scorer(model), CodedTexts(tokenizer, special=not tokenizer.chat_template)
    read = [_tokens(row, possible, tokenize, scorer.limit) for row, possible in zip(rows, answers, strict=True)]
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}  # answers → examples that have them
    for number, (_, endings) in enumerate(read):
        alike.setdefault(endings, []).append(number)
    scores, done = [np.zeros(0)] * len(read), 0
    for endings, numbers in alike.items():
        symbols = np.unique(np.concatenate(endings))
        trie = Trie.build([np.searchsorted(symbols, ending).tolist() for ending in endings], len(symbols))
        numbers.sort(key=lambda number: len(read[number][0]))
        for start in range(0, len(numbers), _TOGETHER):
            batch = numbers[start : start + _TOGETHER]
            prompts = [read[number][0] for number in batch]
            found = score_all(scorer, trie, symbols, prompts, "vocabulary").astype(np.float64)
            found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
            for number, row in zip(batch, found, strict=True):
                scores[number] = row
            done += len(batch)
            progress(done / len(read))
    return scores


def _tokens(
    row: Row, answers: Sequence[str], tokenize: CodedTexts, window: int
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """Tokens that all answers to a prompt share from the beginning, and those that each goes on with, at least one."""
    tokenizer: Any = tokenize.tokenizer

    def whole(prompt: str) -> list[list[int]]:
        text, _ = wrap(tokenizer, prompt)
        found = tokenize(pa.array([f"{text}{answer}{tokenizer.eos_token or ''}" for answer in answers]))
        return [found.text(number)[0].tolist() for number in range(len(answers))]

    texts = whole(row["prompt"])
    if max(map(len, texts)) > window:
        texts = whole(shorten(row, window, lambda prompt: max(map(len, whole(prompt))))["prompt"])
        if (longest := max(map(len, texts))) > window:
            raise ModelError(
                f"an example of '{row['task']}' has {longest} tokens but the model holds {window}. Lower tasks.history "
                "or tasks.candidates."
            )
    first, last = min(texts), max(texts)  # what these two share, all share
    most = min(map(len, texts)) - 1
    shared = next((place for place in range(most) if first[place] != last[place]), most)
    return texts[0][:shared], tuple(tuple(text[shared:]) for text in texts)
