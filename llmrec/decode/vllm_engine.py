"""The vLLM engine: the k best items from a vLLM in this process, offline or async.

engine = VllmEngine.open(Path("runs/NAME/train-1-sft/model"), Path("runs/NAME/catalogue"))
engine.rank(prompts, k=10)                                       # the same `Ranked` as `beam_search`
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.contracts import Ranked
from llmrec.decode.filters import Filter
from llmrec.decode.search import Normalise
from llmrec.decode.vllm_request import VARIABLE
from llmrec.decode.vllm_rounds import Ask, Reply, rounds
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.loading import tokenizer_from
from llmrec.model.vocabulary import token_ids

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

PROCESSORS = {
    1: "llmrec.decode.vllm_processor:ItemLogitsProcessor",
    2: "llmrec.decode.vllm_processor_v2:ItemLogitsProcessor",
}
CPU_BLOCK = 32  # tokens; the CPU's default of 128 would cache nothing of a short prompt


def engine_arguments(folder: Path, catalogue_folder: Path, **more: Any) -> dict[str, Any]:
    """Arguments of `vllm.LLM` or `AsyncEngineArgs` for a model folder, and the environment they need.

    Sets LLMREC_CATALOGUE, which vLLM's own processes inherit, and where they are not set
    VLLM_USE_V2_MODEL_RUNNER=0 and, on CPUs, VLLM_CPU_KVCACHE_SPACE. So a process serves one catalogue.

    Args:
        more: arguments of vLLM, which win over ours.

    Raises:
        CodeError: not an intact catalogue folder.
    """
    from vllm.platforms import current_platform

    os.environ[VARIABLE] = str(Path(catalogue_folder).resolve())
    trie = Catalogue.load(Path(catalogue_folder)).trie
    arguments: dict[str, Any] = {
        "model": str(folder),
        "trust_remote_code": False,
        "load_format": "safetensors",  # never pickles
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": int(np.diff(trie.first_child).max()),  # nobody needs more than all children of a prefix
    }
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        arguments["block_size"] = CPU_BLOCK
    arguments["logits_processors"] = [PROCESSORS[_runner()]]
    return arguments | more


def _runner() -> int:
    """The model runner that vLLM will take, 1 or 2. Where nobody chose it is 1, the one that was run for real."""
    import vllm.envs as envs

    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    return 2 if envs.VLLM_USE_V2_MODEL_RUNNER else 1


class _Engine:
    """What both engines share: the catalogue, its tokens and the window."""

    def __init__(self, catalogue: Catalogue, tokens: np.ndarray, window: int) -> None:
        self.catalogue, self.tokens, self.window = catalogue, tokens, window

    def check(self, prompt: Sequence[int]) -> None:
        """See `Engine.check`."""
        depth = self.catalogue.trie.depth
        if not len(prompt):
            raise RequestError("A prompt without tokens cannot be gone on from: pass at least one token a prompt.")
        if len(prompt) + depth > self.window:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and its answer {depth}, but the model's window is "
                f"{self.window}: shorten the history."
            )


class VllmEngine(_Engine):
    """Ranks batches of prompts through an offline `vllm.LLM`."""

    def __init__(self, llm: LLM, catalogue: Catalogue) -> None:
        """Use an `LLM` made with `engine_arguments`.

        Raises:
            ModelError: its tokenizer lacks the catalogue's tokens.
        """
        tokens = token_ids(llm.get_tokenizer(), catalogue.tokens)
        super().__init__(catalogue, tokens, llm.model_config.max_model_len)
        self.llm = llm

    @classmethod
    def open(cls, folder: Path, catalogue_folder: Path, **more: Any) -> VllmEngine:
        """Start vLLM on a model folder; about half a minute. Arguments as in `engine_arguments`."""
        from vllm import LLM

        return cls(LLM(**engine_arguments(folder, catalogue_folder, **more)), Catalogue.load(catalogue_folder))

    def rank(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[Filter | None] | None = None,
        beams: int | None = None,
        normalise: Normalise = "catalogue",
    ) -> Ranked:
        """The k best items after each prompt; arguments and result as in `search.beam_search`.

        Raises:
            RequestError: as in `beam_search`, and for normalise='vocabulary'.
            ModelError: vLLM was started without the item processor.
        """
        for prompt in prompts:
            self.check(prompt)
        search = rounds(self.catalogue.trie, self.tokens, prompts, k, beams, filters, normalise)
        replies: Any = None
        while True:
            try:
                asks = search.send(replies)
            except StopIteration as end:
                return end.value
            replies = self._answered(asks)

    def score(self, prompts: Sequence[Sequence[int]], filters: Sequence[Filter | None] | None = None) -> np.ndarray:
        """Refuse: vLLM tells the likeliest tokens of a prefix, not the score of every item.

        Raises:
            RequestError: always.
        """
        raise RequestError("vLLM does not score every item: open the run with engine='transformers' for that.")

    def _answered(self, asks: list[Ask]) -> list[Reply]:
        outputs = self.llm.generate(
            [{"prompt_token_ids": ask.tokens} for ask in asks],
            [_parameters(ask, self.catalogue) for ask in asks],
            use_tqdm=False,
        )
        return [_reply(output) for output in outputs]


class AsyncVllmEngine(_Engine):
    """Ranks through an `AsyncLLM`, such as the one inside a vLLM server; calls share its batches."""

    def __init__(self, llm: AsyncLLM, catalogue: Catalogue) -> None:
        """Use an `AsyncLLM` made with `engine_arguments`.

        Raises:
            ModelError: its tokenizer lacks the catalogue's tokens.
        """
        tokens = token_ids(tokenizer_from(llm.model_config.tokenizer), catalogue.tokens)
        super().__init__(catalogue, tokens, llm.model_config.max_model_len)
        self.llm = llm
        self._numbers = itertools.count()

    @classmethod
    def open(cls, folder: Path, catalogue_folder: Path, **more: Any) -> AsyncVllmEngine:
        """Start vLLM on a model folder, within a running event loop. Arguments as in `engine_arguments`."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**engine_arguments(folder, catalogue_folder, **more))
        return cls(AsyncLLM.from_engine_args(arguments), Catalogue.load(catalogue_folder))

    async def rank(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[Filter | None] | None = None,
        beams: int | None = None,
        normalise: Normalise = "catalogue",
    ) -> Ranked:
        """As `VllmEngine.rank`. Prompts of one call wait for one another; give each its own call where users do not."""
        for prompt in prompts:
            self.check(prompt)
        search = rounds(self.catalogue.trie, self.tokens, prompts, k, beams, filters, normalise)
        replies: Any = None
        while True:
            try:
                asks = search.send(replies)
            except StopIteration as end:
                return end.value
            replies = await asyncio.gather(*(self._answered(ask) for ask in asks))

    async def _answered(self, ask: Ask) -> Reply:
        name, last = f"llmrec-{next(self._numbers)}", None
        rendered: Any = {"type": "token", "prompt_token_ids": ask.tokens}  # else each request waits for a thread
        async for output in self.llm.generate(rendered, _parameters(ask, self.catalogue), name):
            last = output
        return _reply(last)


def _parameters(ask: Ask, catalogue: Catalogue) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        logprobs=ask.logprobs,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # nobody else holds it, and a deep copy takes longer than all else here
        extra_args={"items": "item", "answer_start": ask.answer_start, "catalogue": catalogue.hash},
    )


def _reply(output: Any) -> Reply:
    flat = output.outputs[0].logprobs
    return Reply(flat.token_ids, flat.logprobs)
