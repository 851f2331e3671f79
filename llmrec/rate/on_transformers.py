"""Ratings from a language model on transformers: one pass over the prompt gives probabilities and the answer's start.

What all prompts share from their beginning on (examples, above all) is computed once. Batches hold prompts of like
length, padded on the left.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.model.logits import OutputHead
from llmrec.rate.answers import LONGEST, Answer
from llmrec.rate.expected import Words, shares
from llmrec.rate.prompts import text_of, written
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
        self.head = OutputHead(model)
        self.stop = {tokenizer.eos_token_id, *_listed(getattr(model.generation_config, "eos_token_id", None))} - {None}

    @torch.inference_mode()
    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Answers, shortest prompts first.

        Raises:
            ModelError: a prompt is longer than the model's window.
        """
        texts = [text_of(self.tokenizer, prompt) for prompt in prompts]
        words = Words.read(self.tokenizer, texts[0], written(self.tokenizer, self.scale.words))
        special = not self.tokenizer.chat_template
        rows = [list(self.tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts]
        self._fits(max(map(len, rows)))
        shared = _shared(rows)
        prefix = self._prefix(rows[0][:shared])
        order = np.argsort([len(row) for row in rows], kind="stable").tolist()
        for batch in _batches(order, [len(row) - shared for row in rows]):
            begin = time.perf_counter()
            found = self._batch([rows[number][shared:] for number in batch], prefix, words)
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

    def _prefix(self, tokens: list[int]) -> DynamicCache:
        cache = DynamicCache()
        if tokens:
            ids = torch.tensor([tokens], device=self.model.device)
            self.model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    def _batch(
        self, rows: list[list[int]], prefix: DynamicCache, words: Words
    ) -> list[tuple[str, list[float], float, int]]:
        past = prefix.get_seq_length()
        cache = copy.deepcopy(prefix)
        if past and len(rows) > 1:
            cache.batch_repeat_interleave(len(rows))
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=self.model.device)
        there = torch.tensor([[1] * past + [0] * (width - len(row)) + [1] * len(row) for row in rows]).to(ids.device)
        logits = self._step(ids, there, cache)
        at = [logits, *self._nodes(words, there, cache)] if len(words.inner) > 1 else [logits]
        chosen = [words.children(path) for path in words.inner]
        picked = [values[:, tokens].tolist() for values, tokens in zip(at, chosen, strict=True)]
        likely = [
            shares(
                words, [dict(zip(tokens, one[row], strict=True)) for tokens, one in zip(chosen, picked, strict=True)]
            )
            for row in range(len(rows))
        ]
        said = self._say(logits, there, cache)
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [(text, *one, len(tokens)) for text, one, tokens in zip(texts, likely, said, strict=True)]

    def _step(self, ids: Tensor, there: Tensor, cache: DynamicCache) -> Tensor:
        """(rows, vocabulary) log-probabilities after the last token."""
        places = (there.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        states = self.model.get_decoder()(
            input_ids=ids, attention_mask=there, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        return torch.log_softmax(self.head(states), dim=-1)

    def _nodes(self, words: Words, there: Tensor, cache: DynamicCache) -> list[Tensor]:
        """(rows, vocabulary) log-probabilities after each inner path but the empty one; the cache stays as it was.

        All paths are one stretch of new tokens, each of which sees the prompt and the path before it.
        """
        paths, past, rows = words.inner[1:], there.shape[1], len(there)
        ancestors = torch.tensor([[other == path[: len(other)] for other in paths] for path in paths])
        seen = torch.cat(
            [there.bool().cpu()[:, None].expand(-1, len(paths), -1), ancestors.expand(rows, -1, -1)], dim=2
        )
        mask = torch.zeros(seen.shape, dtype=self.model.dtype).masked_fill(~seen, torch.finfo(self.model.dtype).min)
        length = there.sum(1, keepdim=True)
        depths = torch.tensor([[len(path) - 1 for path in paths]], device=there.device)
        ids = torch.tensor([[path[-1] for path in paths]], device=there.device).expand(rows, -1)
        states = self.model.get_decoder()(
            input_ids=ids,
            attention_mask=mask[:, None].to(there.device),
            position_ids=length + depths,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.crop(past)
        return [torch.log_softmax(self.head(states[:, place]), dim=-1) for place in range(len(paths))]

    def _say(self, logits: Tensor, there: Tensor, cache: DynamicCache) -> list[list[int]]:
        """Greedy tokens of each row up to where it stops."""
        said: list[list[int]] = [[] for _ in there]
        going = [True] * len(said)
        for place in range(self.longest):
            tokens = logits.argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                going[row] = going[row] and token not in self.stop
                said[row] += [token] if going[row] else []
            if not any(going) or place == self.longest - 1:
                break
            there = torch.cat([there, torch.ones_like(there[:, :1])], dim=1)
            logits = self._step(tokens[:, None], there, cache)
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
