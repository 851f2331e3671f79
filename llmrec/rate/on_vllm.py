"""Ratings from a language model on vLLM: one call for all prompts; probabilities come with the first token.

Ratings of several tokens take a further round for each inner node of their trie, whose prompts vLLM has cached.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmrec.model.prompting import encode, wrap
from llmrec.rate.answers import LONGEST, Answer
from llmrec.rate.expected import Words, shares
from llmrec.rate.prompts import LABEL, written
from llmrec.rate.scale import Scale

BLOCK = 32  # tokens of a cached block on CPUs, whose default of 128 would cache nothing of a short prompt
AT_ONCE = 512  # prompts of a call: what is lost at most when a run is killed


class OnVllm:
    """Answers greedily, at most `longest` tokens.

    Attributes:
        name: model, scale and length: what an answer depends on.
        llm: a `vllm.LLM`.
    """

    def __init__(self, name: str, llm: Any, scale: Scale, longest: int = LONGEST) -> None:
        self.llm, self.tokenizer, self.scale, self.longest = llm, llm.get_tokenizer(), scale, longest
        self.name = f"{name} | vllm {llm.model_config.dtype} | {scale.said} | {longest}"

    @classmethod
    def open(cls, name: str, folder: Path | str, scale: Scale, **more: Any) -> OnVllm:
        """Start vLLM on a model folder or hub name: a minute, and minutes where it compiles a model for the first time.

        Further arguments are `vllm.LLM`'s.
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
                # Left to itself vLLM keeps a core for a server, half of a small machine; here none is running.
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
            arguments["block_size"] = BLOCK
        return cls(name, LLM(**arguments | more), scale)

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Answers, a few hundred at a time."""
        before, _ = wrap(self.tokenizer, prompts[0], LABEL)
        words = Words.read(self.tokenizer, before, written(self.tokenizer, self.scale.words))
        rows = [encode(self.tokenizer, prompt, LABEL) for prompt in prompts]
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            begin = time.perf_counter()
            first, *later = words.inner
            outputs = self._generate(part, self.longest, words.children(first))
            at = [[_found(output) for output in outputs]]
            for path in later:
                longer = self._generate([row + list(path) for row in part], 1, words.children(path))
                at.append([_found(output) for output in longer])
            seconds = (time.perf_counter() - begin) / len(part)
            for place, output in enumerate(outputs):
                likely, mass = shares(words, [found[place] for found in at])
                said = output.outputs[0]
                yield start + place, Answer(said.text, likely, mass, len(part[place]), len(said.token_ids), seconds)

    def _generate(self, rows: list[list[int]], longest: int, wanted: list[int]) -> list[Any]:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=longest, logprob_token_ids=wanted)
        return self.llm.generate([{"prompt_token_ids": row} for row in rows], parameters, use_tqdm=False)


def _found(output: Any) -> dict[int, float]:
    """Log-probabilities at the first token of the answer."""
    return {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
