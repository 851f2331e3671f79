"""Whole searches, side by side: our engines, `generate` with a dictionary, the bare prompt, vLLM's own beam search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from decode_peers import Rank, dictionary_generate, vllm_beam_search
from decode_subject import prompts
from llmrec.decode.generative import TransformersEngine
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.model import folder as model_folder
from llmrec.model.vocabulary import token_ids
from shared import ratio

BATCH = 8
VLLM: dict[str, Any] = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 512}
BACKEND = {"structured_outputs_config": {"backend": "xgrammar"}}  # vLLM's beam search cannot choose one by itself


def open_engines(folder: Path, catalogue_folder: Path, dtype: str, with_vllm: bool) -> dict[str, Rank]:
    """Name → what ranks a batch; vLLM's two where it is installed."""
    model, tokens = open_model(folder, catalogue_folder, dtype)
    catalogue = Catalogue.load(catalogue_folder)
    engines: dict[str, Rank] = {
        "transformers": ours(model, catalogue.trie, tokens),
        "prefill": prefill(model),
        "generate": dictionary_generate(model, catalogue, tokens),
    }
    if with_vllm:
        from llmrec.decode.vllm_engine import VllmEngine

        vllm = VllmEngine.open(folder, catalogue_folder, dtype=dtype, **VLLM, **BACKEND)
        engines["vllm"] = lambda prompts, k: vllm.rank(prompts, k)
        engines["vllm beam_search"] = vllm_beam_search(vllm.llm, catalogue)
    return engines


def open_model(folder: Path, catalogue_folder: Path, dtype: str) -> tuple[Any, np.ndarray]:
    """The model, and its token of each symbol."""
    model, tokenizer, _ = model_folder.load(folder, getattr(torch, dtype))
    return model, token_ids(tokenizer, Catalogue.load(catalogue_folder).tokens)


def ours(model: Any, trie: Trie, tokens: np.ndarray) -> Rank:
    """Our engine on transformers, as many beams as items asked for."""
    engine = TransformersEngine(model, trie, tokens)
    return lambda prompts, k: engine.rank(prompts, k)


def prefill(model: Any) -> Rank:
    """One pass over the padded prompts, keeping keys and values, and nothing else: what no decoder can do without."""
    decoder = model.get_decoder()

    def run(prompts: Sequence[Sequence[int]], k: int) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts], device=model.device)
        with torch.no_grad():
            decoder(input_ids=ids, past_key_values=DynamicCache(), use_cache=True)

    return run


def measure(engines: dict[str, Rank], beams: int, batches: int, vocabulary: int, batch: int = BATCH) -> dict[str, Any]:
    """Every batch through all engines in turn, each time with new prompts.

    Args:
        vocabulary: prompts are of words below this.
        batch: users at once.

    Returns:
        Seconds a batch, users a second, and how many times longer each engine takes than ours and than the prompt.
    """
    random = np.random.default_rng(beams)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(-1, batches):
        given = prompts(random, batch, vocabulary)
        for name, rank in engines.items():
            if number < 0 and name in ("generate", "vllm beam_search"):
                continue  # minutes long, and nothing to warm
            spent = _timed(rank, given, beams)
            if number >= 0:
                seconds[name].append(spent)
    return {
        "beams": beams,
        "batch": batch,
        "seconds_a_batch": {name: [round(one, 4) for one in some] for name, some in seconds.items()},
        "users_a_second": {name: round(batch / float(np.median(some)), 2) for name, some in seconds.items()},
        "times_faster_than_generate": _against(seconds, "generate", faster=True),
        "times_the_prefill": _against(seconds, "prefill", faster=False),
        "times_faster_than_vllm_beam_search": _against(seconds, "vllm beam_search", faster=True),
    }


def _against(seconds: dict[str, list[float]], peer: str, faster: bool) -> dict[str, Any]:
    if peer not in seconds:
        return {}
    others = {name: some for name, some in seconds.items() if name != peer}
    return {name: ratio(*((seconds[peer], some) if faster else (some, seconds[peer]))) for name, some in others.items()}


def _timed(rank: Rank, given: list[list[int]], beams: int) -> float:
    begin = time.perf_counter()
    rank(given, beams)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
