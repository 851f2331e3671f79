"""The vLLM engine offline against `generate` with a dictionary trie, side by side on SmolLM2-135M; prints JSON.

    OMP_WAIT_POLICY=passive python scripts/bench_vllm.py --beams 10 50 --batches 3

The peer is what the field does: `generate(num_beams=K, prefix_allowed_tokens_fn=...)` over a dictionary of prefixes.
All get the same batches, each prompt new, so that nothing of a batch is cached before it is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.decode.vllm_engine import VllmEngine
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.base import load_base
from llmrec.model.vocabulary import add_tokens, token_ids

BATCH, LENGTHS, WIDTHS = 8, (60, 240), [256] * 4
Rank = Callable[[Sequence[Sequence[int]], int], Any]


def random_codes(random: np.random.Generator, items: int) -> np.ndarray:
    """(items, 4) codes skewed as those of clustered items: Zipf within each prefix, the last level telling apart."""
    weights = 1 / np.arange(1, 257)
    orders = np.array([random.permutation(256) for _ in range(256)])
    first = random.integers(0, 256, items)
    second = orders[first, random.choice(256, items, p=weights / weights.sum())]
    third = orders[(first + second) % 256, random.choice(256, items, p=weights / weights.sum())]
    seen: dict[tuple[int, int, int], int] = {}
    codes = []
    for code in zip(first.tolist(), second.tolist(), third.tolist(), strict=True):
        seen[code] = seen.get(code, -1) + 1
        codes.append((*code, seen[code]))
    return np.array(codes, np.int32)


def prepare(folder: Path, items: int, base: str) -> tuple[Path, Path]:
    """A model folder and a catalogue folder, as a run makes them but untrained."""
    random = np.random.default_rng(0)
    names = [f"i{number}" for number in range(items)]
    catalogue = Catalogue.of(pa.table({"item_id": names, "title": names}), random_codes(random, items), WIDTHS)
    model, tokenizer = load_base(base, torch.bfloat16)
    torch.manual_seed(0)
    model.resize_token_embeddings(add_tokens(tokenizer, catalogue.tokens))
    rows = model.get_input_embeddings().weight.data
    new = token_ids(tokenizer, catalogue.tokens)
    rows[new] = rows[random.permutation(40_000)[: len(new)]]  # resizing makes new rows all but equal: every item a tie
    (folder / "catalogue").mkdir()
    catalogue.save(folder / "catalogue", {})
    note = model_folder.Note(catalogue.hash, 20, "{history}", "{history}")
    model_folder.save(model, tokenizer, note, folder / "model")
    return folder / "model", folder / "catalogue"


def dictionary_generate(model: Any, catalogue: Catalogue, tokens: np.ndarray) -> Rank:
    """The peer: beam search of transformers over a dictionary from prefix to tokens."""
    following: dict[tuple[int, ...], set[int]] = {}
    for code in tokens[catalogue.codes].tolist():
        for length in range(len(code)):
            following.setdefault(tuple(code[:length]), set()).add(code[length])
    allowed = {prefix: sorted(some) for prefix, some in following.items()}

    def rank(prompts: Sequence[Sequence[int]], k: int) -> Any:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        inside = torch.arange(longest) >= torch.tensor([[longest - len(prompt)] for prompt in prompts])
        with torch.inference_mode():
            return model.generate(
                ids,
                attention_mask=inside.long(),
                num_beams=k,
                num_return_sequences=k,
                max_new_tokens=len(WIDTHS),
                do_sample=False,
                eos_token_id=None,
                prefix_allowed_tokens_fn=lambda _, row: allowed[tuple(row[longest:].tolist())],
            )

    return rank


def measure(engines: dict[str, Rank], beams: int, batches: int, random: np.random.Generator) -> dict[str, Any]:
    """Seconds a batch of each engine, every batch through all of them in turn, and how far the first two agree."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    overlaps = []
    for _ in range(batches):
        lengths = random.integers(LENGTHS[0], LENGTHS[1] + 1, BATCH)
        prompts = [random.integers(100, 49_000, length).tolist() for length in lengths]
        found = {}
        for name, rank in engines.items():
            begin = time.perf_counter()
            found[name] = rank(prompts, beams)
            seconds[name].append(time.perf_counter() - begin)
        pairs = zip(found["vllm"].items, found["transformers"].items, strict=True)
        overlaps.append(np.mean([len(set(one) & set(other)) / beams for one, other in pairs]))
    rates = {name: BATCH / float(np.median(times)) for name, times in seconds.items()}
    return {
        "beams": beams,
        "seconds_a_batch": {name: [round(one, 3) for one in times] for name, times in seconds.items()},
        "users_a_second": {name: round(rate, 2) for name, rate in rates.items()},
        "against_generate": {name: round(rate / rates["generate"], 2) for name, rate in rates.items()},
        "overlap_of_vllm_and_transformers": round(float(np.mean(overlaps)), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--block", type=int, default=32, help="tokens of a block of vLLM's cache")
    parser.add_argument("--skip-generate", action="store_true", help="leave the peer out, to try options of vLLM")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model (minutes)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where, catalogue_folder = prepare(Path(folder), given.items, given.base)
        options = {
            "enforce_eager": not given.compile,
            "max_model_len": 512,
            "max_num_seqs": 512,
            "dtype": "bfloat16",
            "block_size": given.block,
        }
        vllm = VllmEngine.open(where, catalogue_folder, **options)
        model, tokenizer, _ = model_folder.load(where)
        catalogue = Catalogue.load(catalogue_folder)
        tokens, scorer = token_ids(tokenizer, catalogue.tokens), Scorer(model)
        engines: dict[str, Rank] = {
            "vllm": vllm.rank,
            "transformers": lambda prompts, k: beam_search(scorer, catalogue.trie, tokens, prompts, k),
            "generate": dictionary_generate(model, catalogue, tokens),
        }
        if given.skip_generate:
            engines["generate"] = engines["transformers"]
        random = np.random.default_rng(1)
        measure({**engines, "generate": engines["transformers"]}, 2, 1, random)  # warms up; the peer needs none
        results = [measure(engines, beams, given.batches, random) for beams in given.beams]
    print(
        json.dumps(
            {
                "base": given.base,
                "items": given.items,
                "nodes": len(catalogue.trie.start),
                "batch": BATCH,
                "prompt_tokens": LENGTHS,
                "dtype": "bfloat16",
                "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0],
                "compiled": given.compile,
                "block": given.block,
                "results": results,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
