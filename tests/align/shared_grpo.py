"""A small catalogue, its positions, and a training that several processes share: `test_grpo` starts it in each."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from aligned_models import family

from llmrec.align.context import AlignmentContext, PositionRows, TrainPositions
from llmrec.align.grpo import RolloutGenerator, frozen_copy
from llmrec.contracts import Sequences
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Grpo
from llmrec.train import distributed, loop

CODES = np.array([(a, b, c) for a, b, c in itertools.product(range(3), range(2), range(2))], np.int32)


def alignment_context(repeats: bool = True, items: int = 12, users: int = 4) -> AlignmentContext:
    """A catalogue of twelve items or fewer, a position of each of five users or fewer, prompts of random tokens."""
    draw = np.random.default_rng(0)
    table = pa.table({"item_id": [f"i{n}" for n in range(items)], "title": [f"Film {n}" for n in range(items)]})
    catalogue = Catalogue.of(table, CODES[:items], [3, 2, 2])
    train = Sequences.of([draw.choice(items, min(items, 4), replace=False) for _ in range(users)])
    places = np.full(users, min(items, 4) - 1)
    positions = TrainPositions(train, np.arange(users), places, repeats, items)
    prompts = [draw.integers(1, 50, length) for length in (3, 7, 5, 6, 4)[:users]]
    tokens: Any = None
    return AlignmentContext(tokens, tokens, catalogue, np.arange(50, 57), positions, prompts, list("abcde")[:users])


def settings(**given: Any) -> Grpo:
    return Grpo.model_validate(
        {"method": "grpo", "group_size": 6, "kl": 0.0, "advantage": "dr-grpo", "skip_constant_groups": False, **given}
    )


def train_on_all(work: Path, users: int) -> dict[str, torch.Tensor]:
    """Three rounds in steps of four positions; groups hold the whole catalogue, so nothing is left to chance."""
    model, context = family("llama"), alignment_context(users=users)
    stage = settings(
        group_size=12, batch=4, epochs=3, learning_rate=1e-2, warmup=0.0, kl=0.1, sft=0.1, skip_constant_groups=True
    )
    generator = RolloutGenerator(stage, context, 0, frozen_copy(model))
    loop.train(model, PositionRows(users), stage, generator.objective(), 0, work, 0.0, lambda done: None)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def main(work: Path, place: dict[str, str]) -> None:
    """Train as one of several."""
    os.environ.update(place)
    distributed.init()
    for users in (5, 1):  # the last step of an epoch has nothing for the second process; with one position none has
        weights = train_on_all(work / str(users), users)
        if distributed.is_main_process():
            torch.save(weights, work / f"{users}.pt")
