"""The vLLM engine: the k best items from a vLLM in this process, offline or async.

engine = VllmEngine.open(Path("runs/NAME/train-1-sft/model"), Path("runs/NAME/catalogue"))
engine.rank(prompts, k=10)                                       # the same `Ranked` as `beam_search`

vLLM only continues prompts, so a search is one round of requests per code level. Each asks for the next symbol of one
live beam, by the user's prompt and the beam's prefix; vLLM's prefix cache holds what they share. Filters are applied
here, so requests carry none, and vLLM's probabilities are over the catalogue's children.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmrec.contracts import Ranked
from llmrec.decode.filters import FilterList, Filters
from llmrec.decode.search import Beams, beam_width, best_of, finish, join, open_rows, ranked
from llmrec.decode.vllm_request import VARIABLE
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
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
    """Arguments of `vllm.LLM` or `AsyncEngineArgs` for a model folder; `more` of vLLM's own win over ours.

    Sets LLMREC_CATALOGUE, which vLLM's own processes inherit, and where they are not set
    VLLM_USE_V2_MODEL_RUNNER=0 and, on CPUs, VLLM_CPU_KVCACHE_SPACE. So a process serves one catalogue.
    """
    import vllm.envs as envs
    from vllm.platforms import current_platform

    os.environ[VARIABLE] = str(Path(catalogue_folder).resolve())
    trie = Catalogue.load(Path(catalogue_folder)).trie
    arguments: dict[str, Any] = {
        "model": str(folder),
        "trust_remote_code": False,
        "load_format": "safetensors",  # never pickles
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": int(np.diff(trie.first_child).max()),  # all children of a prefix
    }
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        arguments["block_size"] = CPU_BLOCK
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the runner V1 was run for real
    arguments["logits_processors"] = [PROCESSORS[2 if envs.VLLM_USE_V2_MODEL_RUNNER else 1]]
    return arguments | more


class Ask(NamedTuple):
    """One request for the next token.

    Attributes:
        tokens: the prompt and the beam's prefix.
        answer_start: where in them the answer began.
        logprobs: how many of the likeliest tokens to return.
    """

    tokens: list[int]
    answer_start: int
    logprobs: int


class Reply(NamedTuple):
    """The likeliest next tokens; some may be named twice.

    Attributes:
        tokens: (n,) token ids.
        logprobs: (n,) log-probability among the children of the prefix, in nats; -inf for what is no child.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]


def rounds(
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    k: int,
    beams: int | None = None,
    filters: FilterList = None,
) -> Generator[list[Ask], list[Reply], Ranked]:
    """Beam search that yields each round's requests, is sent their replies in order, and returns the items.

    Arguments and result are those of `search.beam_search` with `normalise="catalogue"`.

    Raises:
        RequestError: k < 1, fewer beams than k, not one filter a prompt.
        ModelError: a reply that names no child of its prefix.
    """
    width = beam_width(k, beams)
    sieve, token_ids = Filters(trie, filters, len(prompts)), np.asarray(token_ids)
    symbol_of = np.full(int(token_ids.max()) + 2, -2, np.int64)  # -2 is no symbol
    symbol_of[token_ids] = np.arange(len(token_ids))
    live = open_rows(sieve)
    done = live[:0]
    while len(live.row):
        source, _, child = trie.children(live.node)
        keep = sieve.keep(live.row, live.node, source, child)
        total = np.bincount(source, minlength=len(live.row))
        denied = total - np.bincount(source, keep, len(live.row)).astype(np.int64)
        counts = np.minimum(total, width + denied)  # the best allowed ones are among so many tokens
        replies = yield _asks(trie, token_ids, prompts, live, counts)
        grown = _grown(trie, symbol_of, live, replies, source[keep], child[keep])
        pool = best_of(join(trie, done, grown), width, len(prompts))
        done, live, _ = finish(trie, sieve, pool)
    return ranked(trie, done, len(prompts), k)


def _asks(
    trie: Trie, token_ids: np.ndarray, prompts: Sequence[Sequence[int]], live: Beams, counts: np.ndarray
) -> list[Ask]:
    """A request for each live beam, for so many of its likeliest tokens."""
    codes = trie.code(trie.order[trie.start[live.node]])
    beams = zip(
        live.row.tolist(), token_ids[codes].tolist(), trie.depth_of(live.node).tolist(), counts.tolist(), strict=True
    )
    return [Ask([*prompts[row], *code[:depth]], len(prompts[row]), count) for row, code, depth, count in beams]


def _grown(
    trie: Trie, symbol_of: np.ndarray, live: Beams, replies: Sequence[Reply], parent: np.ndarray, allowed: np.ndarray
) -> Beams:
    """Scored children that the replies name and the filters allow, in the order of row and sorted position.

    Args:
        parent, allowed: (edges,) every child that the filters allow, and the live beam that it is a child of.
    """
    source = np.repeat(np.arange(len(live.row)), [len(reply.tokens) for reply in replies])
    tokens = np.concatenate([np.asarray(reply.tokens, np.int64) for reply in replies])
    logprobs = np.concatenate([np.asarray(reply.logprobs, np.float64) for reply in replies])
    real = logprobs > -np.inf
    source, tokens, logprobs = source[real], tokens[real], logprobs[real]
    symbol = symbol_of[np.minimum(tokens, len(symbol_of) - 1)]
    child = trie.child(live.node[source], symbol)
    if (child < 0).any() or len(np.unique(source)) < len(live.row):
        raise ModelError(
            "vLLM answered with tokens that no item has there. Start it with the item processor "
            "(logits_processors=['llmrec.decode.vllm_processor:ItemLogitsProcessor']) and "
            "logprobs_mode='processed_logprobs', for the catalogue of this model."
        )
    nodes = len(trie.start)
    edge, first = np.unique(source * nodes + child, return_index=True)
    first = first[np.isin(edge, parent * nodes + allowed)]
    source, symbol, child, logprobs = source[first], symbol[first], child[first], logprobs[first]
    score = live.score[source] + logprobs
    return Beams(live.row[source], child, score, score, np.zeros_like(child), symbol)


class _Engine:
    """The part that both engines share: the catalogue, its tokens and the window."""

    def __init__(self, catalogue: Catalogue, tokens: np.ndarray, window: int) -> None:
        self.catalogue, self.tokens, self.window = catalogue, tokens, window

    def check(self, prompt: Sequence[int]) -> None:
        """See `generative.Engine`."""
        depth = self.catalogue.trie.depth
        if not len(prompt):
            raise RequestError("A prompt without tokens cannot be gone on from: pass at least one token a prompt.")
        if len(prompt) + depth > self.window:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and its answer {depth}, but the model's window is "
                f"{self.window}: shorten the history."
            )

    def _rounds(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList, beams: int | None
    ) -> Generator[list[Ask], list[Reply], Ranked]:
        for prompt in prompts:
            self.check(prompt)
        return rounds(self.catalogue.trie, self.tokens, prompts, k, beams, filters)

    def _parameters(self, ask: Ask) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=ask.logprobs,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # it is not shared, and a deep copy takes longer than all else here
            extra_args={"items": "item", "answer_start": ask.answer_start, "catalogue": self.catalogue.hash},
        )


class VllmEngine(_Engine):
    """Ranks batches of prompts through an offline `vllm.LLM`."""

    def __init__(self, llm: LLM, catalogue: Catalogue) -> None:
        """Use an `LLM` made with `engine_arguments`, whose tokenizer has the catalogue's tokens."""
        tokens = token_ids(llm.get_tokenizer(), catalogue.tokens)
        super().__init__(catalogue, tokens, llm.model_config.max_model_len)
        self.llm = llm

    @classmethod
    def open(cls, folder: Path, catalogue_folder: Path, **more: Any) -> VllmEngine:
        """Start vLLM on a model folder; about half a minute. Arguments as in `engine_arguments`."""
        from vllm import LLM

        return cls(LLM(**engine_arguments(folder, catalogue_folder, **more)), Catalogue.load(catalogue_folder))

    def rank(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList = None, beams: int | None = None
    ) -> Ranked:
        """The k best items after each prompt; arguments, errors and result as in `rounds`."""
        search = self._rounds(prompts, k, filters, beams)
        replies: Any = None
        while True:
            try:
                asks = search.send(replies)
            except StopIteration as end:
                return end.value
            inputs: Any = [{"prompt_token_ids": ask.tokens} for ask in asks]
            outputs = self.llm.generate(inputs, [self._parameters(ask) for ask in asks], use_tqdm=False)
            replies = [_reply(output) for output in outputs]

    def score(self, prompts: Sequence[Sequence[int]], filters: FilterList = None) -> np.ndarray:
        """Raise a RequestError: vLLM returns the likeliest tokens of a prefix, not the score of every item."""
        raise RequestError("vLLM does not score every item: open the run with engine='transformers' for that.")


class AsyncVllmEngine(_Engine):
    """Ranks through an `AsyncLLM`, such as the one inside a vLLM server; calls share its batches."""

    def __init__(self, llm: AsyncLLM, catalogue: Catalogue) -> None:
        """Use an `AsyncLLM` made with `engine_arguments`, whose tokenizer has the catalogue's tokens."""
        tokens = token_ids(tokenizer_from(llm.model_config.tokenizer), catalogue.tokens)
        super().__init__(catalogue, tokens, llm.model_config.max_model_len)
        self.llm = llm
        self._numbers = itertools.count()

    async def rank(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList = None, beams: int | None = None
    ) -> Ranked:
        """As `VllmEngine.rank`. Prompts of one call wait for one another; give each user a call of its own."""
        search = self._rounds(prompts, k, filters, beams)
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
        async for output in self.llm.generate(rendered, self._parameters(ask), name):
            last = output
        return _reply(last)


def _reply(output: Any) -> Reply:
    flat = output.outputs[0].logprobs
    return Reply(flat.token_ids, flat.logprobs)
