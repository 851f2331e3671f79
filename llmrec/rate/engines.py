"""Language models that answer rating prompts: on transformers, and behind any server with OpenAI's chat completions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from llmrec.decode.exact import score_nodes
from llmrec.decode.scorer import BranchState, Scorer
from llmrec.errors import ModelError, TextError
from llmrec.model.prompting import encode_prompt, turns
from llmrec.rate.answers import LABEL, MAX_ANSWER_TOKENS, RatingAnswer, RatingTokens
from llmrec.rate.ratings import RatingScale
from llmrec.text.client import OpenAIClient, ReplyError
from llmrec.trusted_urls import KEY

BATCH_TOKENS = 8192  # of a batch, without the tokens that all prompts share
TOP_LOGPROBS = 20  # the most that OpenAI's API gives


class TransformersRatingEngine:
    """Answers greedily on transformers: one pass over the prompt gives probabilities and the first token.

    Tokens that all prompts begin with (above all, examples) are computed once. A batch holds prompts of similar length.

    Attributes:
        name: model, scale, dtype and length: all that an answer depends on.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        scale: RatingScale,
        max_tokens: int = MAX_ANSWER_TOKENS,
    ) -> None:
        self.model, self.tokenizer, self.scale, self.max_tokens = model.eval(), tokenizer, scale, max_tokens
        self.name = f"{name} | transformers {model.dtype} | {scale.description} | {max_tokens}"
        self.scorer = Scorer(model)
        end = getattr(model.generation_config, "eos_token_id", None)
        self.stop = {tokenizer.eos_token_id, *(end if isinstance(end, list | tuple) else [end])} - {None}

    @torch.inference_mode()
    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, RatingAnswer]]:
        """Yield answers, shortest prompts first.

        Raises:
            ModelError: a prompt is longer than the model's window.
        """
        ratings = RatingTokens.after(self.tokenizer, prompts[0], self.scale)
        rows = [encode_prompt(self.tokenizer, prompt, LABEL) for prompt in prompts]
        longest, window = max(map(len, rows)), self.model.config.get_text_config().max_position_embeddings
        if longest + self.max_tokens > window:
            raise ModelError(
                f"a prompt has {longest} tokens and its answer up to {self.max_tokens}, but the model reads {window}. "
                "Lower --history or --shots."
            )
        first, last = min(rows), max(rows)  # tokens that these two share, all rows share
        limit = min(map(len, rows)) - 1  # each row keeps one token
        shared = next((position for position in range(limit) if first[position] != last[position]), limit)
        prefix = self.scorer.cache_prefix(rows[0][:shared])
        order = np.argsort([len(row) for row in rows], kind="stable").tolist()
        for batch in _batches(order, [len(row) - shared for row in rows]):
            start = time.perf_counter()
            results = self._answer_batch([rows[number][shared:] for number in batch], prefix, ratings)
            seconds = (time.perf_counter() - start) / len(batch)
            for number, (text, shares, mass, length) in zip(batch, results, strict=True):
                yield number, RatingAnswer(text, shares, mass, len(rows[number]), length, seconds)

    def _answer_batch(
        self, rows: list[list[int]], prefix: DynamicCache, ratings: RatingTokens
    ) -> list[tuple[str, list[float], float, int]]:
        """Text, probabilities of ratings, their sum, and tokens of each answer."""
        tokens = np.arange(self.scorer.vocab_size)
        state = self.scorer.prefill(rows, tokens, self.max_tokens, full_vocabulary=True, prefix=prefix)
        shares, mass = ratings.probabilities(score_nodes(self.scorer, ratings.trie, state, "vocabulary"))
        answers = self._generate(state)
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return list(zip(texts, shares.tolist(), mass.tolist(), map(len, answers), strict=True))

    def _generate(self, state: BranchState) -> list[list[int]]:
        """Greedy tokens of each row up to its end token."""
        answers: list[list[int]] = [[] for _ in state.lengths]
        unfinished = [True] * len(answers)
        for position in range(self.max_tokens):
            tokens = state.logits.symbols[:, 0].argmax(-1).cpu().numpy()
            for row, token in enumerate(tokens.tolist()):
                unfinished[row] = unfinished[row] and token not in self.stop
                answers[row] += [token] if unfinished[row] else []
            if not any(unfinished) or position == self.max_tokens - 1:
                break
            self.scorer.step(state, tokens[:, None], np.zeros((len(tokens), 1), np.int64))
        return answers


def _batches(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * lengths[number] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class EndpointRatingEngine:
    """Sends prompts to a server, several at a time; waits between tries double (see `text.client`).

    Probabilities are those of the first token, so they need a scale whose ratings are one digit each. A server that
    refuses log-probabilities is asked again without them.
    """

    def __init__(
        self, client: OpenAIClient, scale: RatingScale, workers: int = 8, max_tokens: int = MAX_ANSWER_TOKENS
    ) -> None:
        self.client, self.scale, self.workers, self.max_tokens = client, scale, workers, max_tokens
        self.logprobs = all(len(label) == 1 for label in scale.labels)
        self.name = f"{client.model} | {client.url}/chat/completions | {scale.description} | {max_tokens}"

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, RatingAnswer]]:
        """Yield answers as they come.

        Raises:
            TextError: the server gives no answer after several tries.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = {pool.submit(self._complete, prompt): number for number, prompt in enumerate(prompts)}
            try:
                for job in as_completed(jobs):
                    yield jobs[job], job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _complete(self, prompt: str) -> RatingAnswer:
        body: dict[str, Any] = {
            "messages": turns(prompt),
            "temperature": 0.0,
            "seed": 0,
            "max_tokens": self.max_tokens,
        }
        start, with_logprobs = time.perf_counter(), self.logprobs
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if with_logprobs else {}
        try:
            (text, top, tokens), tries = self.client.complete(body, _read_completion)
        except ReplyError as error:
            if not (with_logprobs and (error.status or 0) // 100 == 4 and b"logprob" in error.reply.lower()):
                raise TextError(
                    f"{str(error).removesuffix('.')}. Check --url and --model, and {KEY} if it wants a key; "
                    "answers so far are kept, and the same command goes on."
                ) from None
            self.logprobs = False  # a model without them; its text can still be parsed
            return self._complete(prompt)
        shares, mass = self._probabilities(top)
        return RatingAnswer(text, shares, mass, *tokens, time.perf_counter() - start, tries)

    def _probabilities(self, top: list[tuple[str, float]]) -> tuple[list[float] | None, float | None]:
        """Probabilities of the ratings and their sum, as `RatingAnswer` has them, from the most probable tokens."""
        if not (self.logprobs and top):
            return None, None
        likelihoods = dict.fromkeys(self.scale.labels, 0.0)
        for token, logprob in top:
            if token.strip() in likelihoods:
                likelihoods[token.strip()] += math.exp(min(0.0, logprob))
        mass = sum(likelihoods.values())
        if mass <= 0:  # no rating among these tokens: all are equally probable
            return [1 / len(likelihoods)] * len(likelihoods), 0.0
        return [value / mass for value in likelihoods.values()], min(mass, 1.0)


def _read_completion(reply: Any) -> tuple[str, list[tuple[str, float]], tuple[int, int]]:
    """Text, the most probable first tokens with their log-probabilities in nats, and tokens of prompt and answer.

    Token counts are 0 where the server does not give them.
    """
    choice = reply["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("its answer is no text")
    positions = (choice.get("logprobs") or {}).get("content") or []
    top = (positions[0].get("top_logprobs") or []) if positions else []
    usage = reply.get("usage") or {}
    counts = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    return text, [(str(entry["token"]), float(entry["logprob"])) for entry in top], counts
