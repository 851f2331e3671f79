"""Ratings from a language model on transformers: one pass over the prompt gives probabilities and the answer's start.

What all prompts share from their beginning on (examples, above all) is computed once. Batches hold prompts of like
length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from llmrec.decode.exact import score_nodes
from llmrec.decode.scorer import Branches, Scorer
from llmrec.errors import ModelError
from llmrec.model.prompting import encode, wrap
from llmrec.rate.answers import LONGEST, Answer
from llmrec.rate.expected import Words
from llmrec.rate.prompts import LABEL, written
from llmrec.rate.scale import Scale

TOKENS = 8192  # of a batch, what the prompts share not counted


class OnTransformers:
    """Answers greedily, at most `longest` tokens.

    Attributes:
        name: model, scale, dtype and length: what an answer depends on.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: PreTrainedTokenizerBase, scale: Scale, longest: int = LONGEST
    ) -> None:
        self.model, self.tokenizer, self.scale, self.longest = model.eval(), tokenizer, scale, longest
        self.name = f"{name} | transformers {model.dtype} | {scale.said} | {longest}"
        self.scorer = Scorer(model)
        self.stop = {tokenizer.eos_token_id, *_listed(getattr(model.generation_config, "eos_token_id", None))} - {None}

    @torch.inference_mode()
    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Answers, shortest prompts first.

        Raises:
            ModelError: a prompt is longer than the model's window.
        """
        before, _ = wrap(self.tokenizer, prompts[0], LABEL)
        words = Words.read(self.tokenizer, before, written(self.tokenizer, self.scale.words))
        rows = [encode(self.tokenizer, prompt, LABEL) for prompt in prompts]
        self._fits(max(map(len, rows)))
        shared = _shared(rows)
        beginning = self.scorer.beginning(rows[0][:shared])
        order = np.argsort([len(row) for row in rows], kind="stable").tolist()
        for batch in _batches(order, [len(row) - shared for row in rows]):
            begin = time.perf_counter()
            found = self._batch([rows[number][shared:] for number in batch], beginning, words)
            seconds = (time.perf_counter() - begin) / len(batch)
            for number, (text, likely, mass, length) in zip(batch, found, strict=True):
                yield number, Answer(text, likely, mass, len(rows[number]), length, seconds)

    def _fits(self, tokens: int) -> None:
        window = self.model.config.get_text_config().max_position_embeddings
        if tokens + self.longest > window:
            raise ModelError(
                f"a prompt has {tokens} tokens and its answer up to {self.longest}, but the model reads {window}. "
                "Lower --history or --shots."
            )

    def _batch(
        self, rows: list[list[int]], beginning: DynamicCache, words: Words
    ) -> list[tuple[str, list[float], float, int]]:
        tokens = np.arange(self.scorer.vocabulary)
        state = self.scorer.prefill(rows, tokens, self.longest, whole=True, before=beginning)
        likely, mass = words.shares(score_nodes(self.scorer, words.trie, state, "vocabulary"))
        said = self._say(state)
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return list(zip(texts, likely.tolist(), mass.tolist(), map(len, said), strict=True))

    def _say(self, state: Branches) -> list[list[int]]:
        """Greedy tokens of each row up to where it stops."""
        said: list[list[int]] = [[] for _ in state.lengths]
        going = [True] * len(said)
        for place in range(self.longest):
            tokens = state.logits.symbols[:, 0].argmax(-1).cpu().numpy()
            for row, token in enumerate(tokens.tolist()):
                going[row] = going[row] and token not in self.stop
                said[row] += [token] if going[row] else []
            if not any(going) or place == self.longest - 1:
                break
            self.scorer.step(state, tokens[:, None], np.zeros((len(tokens), 1), np.int64))
        return said


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _shared(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with; always less than the shortest has."""
    first, last = min(rows), max(rows)  # what these two share, all share
    most = min(map(len, rows)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _batches(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * lengths[number] > TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
