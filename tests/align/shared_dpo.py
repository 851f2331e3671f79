"""A training on preferences that several processes share: what `test_dpo` starts in each of them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aligned_models import VOCABULARY, family

from llmrec.align.context import PositionRows
from llmrec.align.dpo import PairBatches, objective, reference_logprobs
from llmrec.recipe import Dpo
from llmrec.train import distributed, loop

STAGE = Dpo(method="s-dpo", epochs=3, batch=4, learning_rate=1e-2, save_every=5, warmup=0.0, sft=0.1)


def pair_batches(model: Any) -> PairBatches:
    """14 prompts with four answers each: steps of 4, the last of an epoch of 2 and filled up where it is shared."""
    draw = np.random.default_rng(0)
    prompts = [draw.integers(1, VOCABULARY, length) for length in draw.integers(2, 12, 14)]
    codes = draw.integers(1, VOCABULARY, (20, 4))
    codes[::3, 3] = -1
    items = np.stack([draw.choice(20, 4, replace=False) for _ in prompts])
    found = PairBatches(prompts, codes, items)
    found.reference = reference_logprobs(model, found)
    return found


def train(work: Path, stop_at: int = 0, **given: Any) -> dict[str, torch.Tensor]:
    """Twelve steps; Ctrl-C comes after the step `stop_at`."""
    model, stage = family("llama"), STAGE.model_copy(update=given)

    def progress(done: float) -> None:
        if stop_at and round(done * 12) == stop_at:
            raise KeyboardInterrupt

    pairs = pair_batches(model)
    loop.train(model, PositionRows(14), stage, objective(stage, pairs), 0, work, 0.0, progress)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def main(work: Path, place: dict[str, str]) -> None:
    """Train as one of several."""
    os.environ.update(place)
    distributed.init()
    weights = train(work)
    if distributed.is_main_process():
        torch.save(weights, work / "weights.pt")


def in_two_processes(start: Callable[[Path, dict[str, str]], None], work: Path) -> None:
    """Call a function of a module of tests in two processes that train together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([start.__module__])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    places = [shared | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "1"} for rank in "01"]
    processes = [context.Process(target=start, args=(work, place)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
