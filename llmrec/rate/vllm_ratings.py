"""A language model on vLLM that answers rating prompts: one call for all prompts, probabilities with the first token.

Ratings of several tokens take one more call for each beginning of a rating; vLLM has cached the prompts by then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmrec.model.prompting import encode_prompt
from llmrec.rate.answers import LABEL, MAX_ANSWER_TOKENS, RatingAnswer, RatingTokens
from llmrec.rate.ratings import RatingScale

BLOCK_SIZE = 32  # tokens of a cached block on CPUs; the default of 128 would cache nothing of a short prompt
CALL_PROMPTS = 512  # prompts of a call: at most so many answers are lost when the process is killed


class VllmRatingEngine:
    """Answers greedily on vLLM.

    Attributes:
        name: model, scale, dtype and length: all that an answer depends on.
        llm: a `vllm.LLM`.
    """

    def __init__(self, name: str, llm: Any, scale: RatingScale, max_tokens: int = MAX_ANSWER_TOKENS) -> None:
        self.llm, self.tokenizer, self.scale, self.max_tokens = llm, llm.get_tokenizer(), scale, max_tokens
        self.name = f"{name} | vllm {llm.model_config.dtype} | {scale.description} | {max_tokens}"

    @classmethod
    def open(cls, name: str, folder: Path | str, scale: RatingScale, **options: Any) -> VllmRatingEngine:
        """Start vLLM on a model folder or hub name: a minute, and more where it compiles a model for the first time.

        Args:
            options: of `vllm.LLM`.
        """
        from vllm import LLM
        from vllm.platforms import current_platform

        arguments: dict[str, Any] = {
            "model": str(folder),
            "trust_remote_code": False,
            "load_format": "safetensors",  # never pickles
            "enable_prefix_caching": True,
            "max_logprobs": 128,
        }
        if current_platform.is_cpu():
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
            if hasattr(os, "sched_getaffinity"):
                # By default vLLM keeps one core for a server; no server runs here.
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
            arguments["block_size"] = BLOCK_SIZE
        return cls(name, LLM(**arguments | options), scale)

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, RatingAnswer]]:
        """Yield answers, those of each call together."""
        ratings = RatingTokens.after(self.tokenizer, prompts[0], self.scale)
        rows = [encode_prompt(self.tokenizer, prompt, LABEL) for prompt in prompts]
        for start in range(0, len(rows), CALL_PROMPTS):
            part = rows[start : start + CALL_PROMPTS]
            begin = time.perf_counter()
            empty, *longer = ratings.prefixes
            outputs = self._generate(part, self.max_tokens, ratings.next_tokens(empty))
            logprobs = [[_first_logprobs(output) for output in outputs]]
            for prefix in longer:
                extended = [row + list(prefix) for row in part]
                results = self._generate(extended, 1, ratings.next_tokens(prefix))
                logprobs.append([_first_logprobs(output) for output in results])
            seconds = (time.perf_counter() - begin) / len(part)
            for index, output in enumerate(outputs):
                shares, mass = ratings.probabilities_of_steps([of_prefix[index] for of_prefix in logprobs])
                completion = output.outputs[0]
                lengths = len(part[index]), len(completion.token_ids)
                yield start + index, RatingAnswer(completion.text, shares, mass, *lengths, seconds)

    def _generate(self, rows: list[list[int]], max_tokens: int, logprob_tokens: list[int]) -> list[Any]:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprob_token_ids=logprob_tokens)
        return self.llm.generate([{"prompt_token_ids": row} for row in rows], parameters, use_tqdm=False)


def _first_logprobs(output: Any) -> dict[int, float]:
    """Token → log-probability at the first token of an answer."""
    return {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
