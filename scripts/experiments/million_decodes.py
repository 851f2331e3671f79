"""A million constrained decodes of tiny random models: how many items were not real, not allowed, or named twice?

python scripts/experiments/million_decodes.py --decodes 1000000

Random catalogues (codes of two to four levels), random filters, six ways of decoding in turn. What was decoded is
judged by a dictionary of codes that no part of the decoder knows. The result goes into results/million-decodes.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.decode.filters import Filter
from llmrec.decode.grammar import ItemProcessor
from llmrec.decode.sample import sample
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.indexing.trie import Trie
from llmrec.results.record import write_result

VOCABULARY, SYMBOLS, END, MENTION, SEPARATOR, ROWS, PROMPT = 120, 40, 2, 60, [5, 6], 64, 6


@dataclass
class World:
    """A model, a catalogue and what every row may be given."""

    model: LlamaForCausalLM
    codes: list[tuple[int, ...]]
    trie: Trie
    tokens: np.ndarray
    filters: list[Filter]
    allowed: list[set[int]]
    prompts: torch.Tensor
    item_of: dict[tuple[int, ...], int] = field(init=False)

    def __post_init__(self) -> None:
        self.item_of = {tuple(self.tokens[list(code)].tolist()): item for item, code in enumerate(self.codes)}


def random_world(random: np.random.Generator) -> World:
    """A small catalogue with prefix-free codes of mixed length, and a filter for each of 64 rows."""
    codes: set[tuple[int, ...]] = set()
    for _ in range(int(random.integers(1, 400))):
        code = tuple(random.integers(0, SYMBOLS, random.integers(2, 5)).tolist())
        begins = any(code[:length] in codes for length in range(1, len(code) + 1))
        if not begins and not any(other[: len(code)] == code for other in codes):
            codes.add(code)
    listed = sorted(codes)
    trie = Trie.build(listed, SYMBOLS)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4, "eos_token_id": END}
    torch.manual_seed(int(random.integers(2**31)))
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=0, bos_token_id=1)).eval()
    allowed = [
        set(random.permutation(len(listed))[: random.integers(1, len(listed) + 1)].tolist()) for _ in range(ROWS)
    ]
    filters = [_filter(trie, some, number) for number, some in enumerate(allowed)]
    tokens = random.permutation(np.arange(70, 70 + SYMBOLS))
    prompts = torch.from_numpy(random.integers(7, 60, (ROWS, PROMPT)))
    return World(model, listed, trie, tokens, filters, allowed, prompts)


def _filter(trie: Trie, allowed: set[int], number: int) -> Filter:
    """The same wish said in three ways."""
    mask = np.isin(np.arange(len(trie)), list(allowed))
    ways = [{"deny": np.flatnonzero(~mask)}, {"allow": sorted(allowed)}, {"allow": mask}]
    return Filter.of(trie, **ways[number % 3])  # type: ignore[arg-type]


def generated(world: World, random: np.random.Generator, mode: str) -> list[list[int]]:
    """Items of each row's answer through `generate`; -1 for a run of item tokens that is no code."""
    copies, new = 4, {"item": world.trie.depth + 1, "items": 40, "chat": 40}[mode]
    processor = ItemProcessor(
        world.trie, world.tokens, PROMPT, END, world.filters, "raise", mode, SEPARATOR, MENTION, new
    )
    options = {"do_sample": True, "temperature": 2.0, "num_return_sequences": copies, "max_new_tokens": new}
    inside = torch.ones_like(world.prompts)
    out = world.model.generate(world.prompts, attention_mask=inside, logits_processor=[processor], **options)
    runs = [_runs(answer, world) for answer in out[:, PROMPT:].tolist()]
    if mode == "item":
        runs = [items or [-1] for items in runs]
    return runs


def _runs(answer: list[int], world: World) -> list[int]:
    ours, runs = set(world.tokens.tolist()), [[]]
    for token in answer:
        runs = [*runs[:-1], [*runs[-1], token]] if token in ours else [*runs, []]
    return [world.item_of.get(tuple(run), -1) for run in runs if run]


def ranked(world: World, random: np.random.Generator) -> list[list[int]]:
    """Beam search, with as many beams as asked for."""
    k = int(random.integers(1, 40))
    where = (Scorer(world.model), world.trie, world.tokens, world.prompts.tolist())
    return _listed(beam_search(*where, k, filters=world.filters).items)


def drawn(world: World, random: np.random.Generator, again: bool) -> list[list[int]]:
    """Samples with or without replacement."""
    where = (Scorer(world.model), world.trie, world.tokens, world.prompts.tolist())
    n = int(random.integers(1, 40))
    return _listed(sample(*where, n, 1.0, world.filters, random, replacement=again).items)


def _listed(items: np.ndarray) -> list[list[int]]:
    return [[item for item in row if item >= 0] or [-1] for row in items.tolist()]


WAYS: dict[str, Callable[[World, np.random.Generator], list[list[int]]]] = {
    "generate, one item": lambda world, random: generated(world, random, "item"),
    "generate, a list": lambda world, random: generated(world, random, "items"),
    "generate, a chat": lambda world, random: generated(world, random, "chat"),
    "beam search": ranked,
    "samples": lambda world, random: drawn(world, random, True),
    "samples without replacement": lambda world, random: drawn(world, random, False),
}
MAY_REPEAT = ("generate, a chat", "samples")


def judge(world: World, answers: list[list[int]], repeats: bool) -> Counter[str]:
    """What was wrong with the answers; row r of the prompts has len(answers) / rows of them."""
    copies, wrong = len(answers) // ROWS, Counter[str]()
    for number, items in enumerate(answers):
        wrong["decodes"] += len(items)
        wrong["not an item"] += sum(item < 0 for item in items)
        wrong["not allowed"] += sum(item >= 0 and item not in world.allowed[number // copies] for item in items)
        wrong["named twice"] += 0 if repeats else len(items) - len(set(items))
    return wrong


def main() -> int:
    """Decode, judge, write the result; exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decodes", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/million-decodes.json"))
    given = parser.parse_args()
    random, began = np.random.default_rng(given.seed), time.monotonic()
    torch.manual_seed(given.seed)
    totals: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    worlds = 0
    while sum(total["decodes"] for total in totals.values()) < given.decodes:
        world = random_world(random)
        worlds += 1
        for way, decode in WAYS.items():
            totals[way] += Counter()  # keeps the zeros
            for name, count in judge(world, decode(world, random), way in MAY_REPEAT).items():
                totals[way][name] += count
        if worlds % 50 == 0:
            print(worlds, "worlds,", sum(total["decodes"] for total in totals.values()), "decodes", flush=True)
    wrong = sum(total[what] for total in totals.values() for what in ("not an item", "not allowed", "named twice"))
    figures = {
        "decodes": sum(total["decodes"] for total in totals.values()),
        "wrong": wrong,
        "worlds": worlds,
        "ways": {way: dict(total) for way, total in totals.items()},
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    write_result(
        given.out, f"python scripts/experiments/million_decodes.py --decodes {given.decodes}", figures, seed=given.seed
    )
    print(figures)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
