"""The vLLM engine: beam search on vLLM in this process, offline or async.

engine = VllmEngine.open(Path("runs/NAME/train-1-sft/model"), Path("runs/NAME/catalogue"))
engine.rank(prompts, k=10)                                       # the same `Ranked` as `beam_search`

vLLM only continues prompts, so a search takes one step of requests per code level. A request asks for the next symbol
of one live beam: the user's prompt and the beam's prefix, whose shared part is in vLLM's prefix cache. Filters are
applied here and not in the requests, so vLLM's probabilities are normalized over the catalogue's children.
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
from llmrec.decode.filters import BatchFilters, FilterList
from llmrec.decode.scorer import check_length
from llmrec.decode.search import Beams, beam_width, init_beams, merge, split_finished, to_ranked, top_k_per_row
from llmrec.decode.vllm_request import CATALOGUE_VARIABLE
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.model.loading import tokenizer_from
from llmrec.model.vocabulary import token_ids

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

PROCESSORS = {
    1: "llmrec.decode.vllm_processor_v1:ItemProcessorV1",
    2: "llmrec.decode.vllm_processor_v2:ItemProcessorV2",
}
CPU_BLOCK = 32  # tokens; with the default of 128 on CPUs, short prompts are not cached


def engine_arguments(folder: Path, catalogue_folder: Path, **more: Any) -> dict[str, Any]:
    """Arguments of `vllm.LLM` or `AsyncEngineArgs` for a model folder, overridden by `more`.

    Sets LLMREC_CATALOGUE, which vLLM's own processes inherit, so a process serves one catalogue; and as defaults
    VLLM_USE_V2_MODEL_RUNNER=0 and, on CPUs, VLLM_CPU_KVCACHE_SPACE.
    """
    import vllm.envs as envs
    from vllm.platforms import current_platform

    os.environ[CATALOGUE_VARIABLE] = str(Path(catalogue_folder).resolve())
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
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # V1 is the runner that was tested with a model
    arguments["logits_processors"] = [PROCESSORS[2 if envs.VLLM_USE_V2_MODEL_RUNNER else 1]]
    return arguments | more


class StepRequest(NamedTuple):
    """A request for the next token of one beam.

    Attributes:
        tokens: the prompt and the beam's prefix.
        answer_start: length of the prompt.
        logprobs: number of likeliest tokens to return.
    """

    tokens: list[int]
    answer_start: int
    logprobs: int


class StepResult(NamedTuple):
    """The likeliest next tokens.

    Attributes:
        tokens: (n,) token ids; may contain a token twice.
        logprobs: (n,) log-probability among the children of the prefix, in nats; -inf for a token that is no child.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]


Search = Generator[list[StepRequest], list[StepResult], Ranked]


def search_steps(
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    k: int,
    beams: int | None = None,
    filters: FilterList = None,
) -> Search:
    """Beam search as a generator: yields the requests of a step, receives their results in order, returns the items.

    Arguments and result as in `search.beam_search` with `normalize_over="catalogue"`.

    Raises:
        RequestError: k < 1, fewer beams than k, not one filter per prompt.
        ModelError: a result with a token that is no child of its prefix.
    """
    width = beam_width(k, beams)
    batch_filters, token_ids = BatchFilters(trie, filters, len(prompts)), np.asarray(token_ids)
    symbol_of = np.full(int(token_ids.max()) + 2, -2, np.int64)  # -2 is no symbol
    symbol_of[token_ids] = np.arange(len(token_ids))
    live = init_beams(batch_filters)
    finished = live[:0]
    while len(live.row):
        source, _, child = trie.children(live.node)
        keep = batch_filters.keep_children(live.row, live.node, source, child)
        total = np.bincount(source, minlength=len(live.row))
        denied = total - np.bincount(source, keep, len(live.row)).astype(np.int64)
        counts = np.minimum(total, width + denied)  # contain the best allowed ones
        results = yield _step_requests(trie, token_ids, prompts, live, counts)
        children = _scored_children(trie, symbol_of, live, results, source[keep], child[keep])
        pool = top_k_per_row(merge(trie, finished, children), width, len(prompts))
        finished, live, _ = split_finished(trie, batch_filters, pool)
    return to_ranked(trie, finished, len(prompts), k)


def _step_requests(
    trie: Trie, token_ids: np.ndarray, prompts: Sequence[Sequence[int]], live: Beams, counts: np.ndarray
) -> list[StepRequest]:
    """A request for each live beam; `counts` (beams,) are the numbers of likeliest tokens to return."""
    codes = trie.code(trie.order[trie.start[live.node]])
    beams = zip(
        live.row.tolist(), token_ids[codes].tolist(), trie.depth_of(live.node).tolist(), counts.tolist(), strict=True
    )
    return [StepRequest([*prompts[row], *code[:depth]], len(prompts[row]), count) for row, code, depth, count in beams]


def _scored_children(
    trie: Trie,
    symbol_of: np.ndarray,
    live: Beams,
    results: Sequence[StepResult],
    parent: np.ndarray,
    allowed: np.ndarray,
) -> Beams:
    """Scored children that are in the results and allowed, sorted by row and sorted position.

    Args:
        parent, allowed: (edges,) every allowed child, and the index of its live beam.
    """
    source = np.repeat(np.arange(len(live.row)), [len(result.tokens) for result in results])
    tokens = np.concatenate([np.asarray(result.tokens, np.int64) for result in results])
    logprobs = np.concatenate([np.asarray(result.logprobs, np.float64) for result in results])
    real = logprobs > -np.inf
    source, tokens, logprobs = source[real], tokens[real], logprobs[real]
    symbol = symbol_of[np.minimum(tokens, len(symbol_of) - 1)]
    child = trie.child(live.node[source], symbol)
    if (child < 0).any() or len(np.unique(source)) < len(live.row):
        raise ModelError(
            "vLLM answered with tokens that continue no item. Start it with the item processor "
            f"(logits_processors=['{PROCESSORS[1]}']) and logprobs_mode='processed_logprobs', for the catalogue "
            "of this model."
        )
    nodes = len(trie.start)
    edge, first = np.unique(source * nodes + child, return_index=True)
    first = first[np.isin(edge, parent * nodes + allowed)]
    source, symbol, child, logprobs = source[first], symbol[first], child[first], logprobs[first]
    score = live.score[source] + logprobs
    return Beams(live.row[source], child, score, score, np.zeros_like(child), symbol)


class _VllmSearch:
    """Base of both engines: the catalogue, its tokens and the model's window."""

    def __init__(self, catalogue: Catalogue, tokens: np.ndarray, window: int) -> None:
        self.catalogue, self.tokens, self.window = catalogue, tokens, window

    def check(self, prompt: Sequence[int]) -> None:
        """See `generative.Engine`."""
        check_length(len(prompt), self.catalogue.trie.depth, self.window)

    def _search_steps(self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList, beams: int | None) -> Search:
        for prompt in prompts:
            self.check(prompt)
        return search_steps(self.catalogue.trie, self.tokens, prompts, k, beams, filters)

    def _parameters(self, request: StepRequest) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=request.logprobs,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # not shared; a deep copy would take most of the time here
            extra_args={"items": "item", "answer_start": request.answer_start, "catalogue": self.catalogue.hash},
        )


class VllmEngine(_VllmSearch):
    """Search batches of prompts with an offline `vllm.LLM`."""

    def __init__(self, llm: LLM, catalogue: Catalogue) -> None:
        """Use an `LLM` made with `engine_arguments`, whose tokenizer has the catalogue's tokens."""
        tokens = token_ids(llm.get_tokenizer(), catalogue.tokens)
        super().__init__(catalogue, tokens, llm.model_config.max_model_len)
        self.llm = llm

    @classmethod
    def open(cls, folder: Path, catalogue_folder: Path, **more: Any) -> VllmEngine:
        """Start vLLM on a model folder, which takes half a minute; arguments as in `engine_arguments`."""
        from vllm import LLM

        return cls(LLM(**engine_arguments(folder, catalogue_folder, **more)), Catalogue.load(catalogue_folder))

    def rank(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList = None, beams: int | None = None
    ) -> Ranked:
        """The k best items after each prompt; arguments, errors and result as in `search_steps`."""
        search = self._search_steps(prompts, k, filters, beams)
        step = _next_step(search, None)
        while isinstance(step, list):
            inputs: Any = [{"prompt_token_ids": request.tokens} for request in step]
            outputs = self.llm.generate(inputs, [self._parameters(request) for request in step], use_tqdm=False)
            step = _next_step(search, [_step_result(output) for output in outputs])
        return step

    def score(self, prompts: Sequence[Sequence[int]], filters: FilterList = None) -> np.ndarray:
        """Raise a RequestError: vLLM returns the likeliest tokens of a prefix, not the scores of all items."""
        raise RequestError("vLLM does not score every item: open the run with engine='transformers' for that.")


class AsyncVllmEngine(_VllmSearch):
    """Search with an `AsyncLLM`, such as the one inside a vLLM server; calls share its batches."""

    def __init__(self, llm: AsyncLLM, catalogue: Catalogue) -> None:
        """Use an `AsyncLLM` made with `engine_arguments`, whose tokenizer has the catalogue's tokens."""
        tokens = token_ids(tokenizer_from(llm.model_config.tokenizer), catalogue.tokens)
        super().__init__(catalogue, tokens, llm.model_config.max_model_len)
        self.llm = llm
        self._request_numbers = itertools.count()

    async def rank(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList = None, beams: int | None = None
    ) -> Ranked:
        """As `VllmEngine.rank`. Prompts of one call wait for one another: use one call per user."""
        search = self._search_steps(prompts, k, filters, beams)
        step = _next_step(search, None)
        while isinstance(step, list):
            step = _next_step(search, await asyncio.gather(*map(self._run, step)))
        return step

    async def _run(self, request: StepRequest) -> StepResult:
        request_id, last = f"llmrec-{next(self._request_numbers)}", None
        rendered: Any = {"type": "token", "prompt_token_ids": request.tokens}  # else each request waits for a thread
        async for output in self.llm.generate(rendered, self._parameters(request), request_id):
            last = output
        return _step_result(last)


def _next_step(search: Search, results: list[StepResult] | None) -> list[StepRequest] | Ranked:
    """Requests of the next step, or the items when the search has ended."""
    try:
        return search.send(results)  # type: ignore[arg-type]  # None starts a generator
    except StopIteration as end:
        ranked: Ranked = end.value
        return ranked


def _step_result(output: Any) -> StepResult:
    flat = output.outputs[0].logprobs
    return StepResult(flat.token_ids, flat.logprobs)
