"""A training that several processes share: what `test_loop_distributed` starts in each of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.recipe import Sft
from llmrec.train import distributed, sft
from llmrec.train.encode import Encoded
from llmrec.train.packing import PackedRows

STAGE = Sft(epochs=8, batch=4, learning_rate=1e-2, save_every=15)  # 14 rows: 4 steps an epoch, the last of 2 rows


class Seen(PackedRows):
    """Packed rows that write down, process by process, which of them are asked for."""

    seen: Path | None = None

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        if self.seen:
            with self.seen.open("a") as file:
                file.write(f"{row}\n")
        return super().__getitem__(row)


def rows() -> Seen:
    draw = np.random.default_rng(0)
    parts = [Encoded(draw.integers(1, 50, n), np.arange(n) % 3 > 0) for n in draw.integers(3, 15, 14)]
    return Seen(parts, 2, draw)


def model() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, **shape))


def main(work: Path, place: dict[str, str], stop_at: int) -> None:
    """Train as one of several; the first process dies after the step `stop_at`, as if killed."""
    os.environ.update(place)
    distributed.init()
    given, llama = rows(), model()
    given.seen = work / f"seen-{os.environ['RANK']}"

    def progress(done: float) -> None:
        if stop_at and round(done * 32) == stop_at:
            os._exit(9)

    done = sft.train(llama, given, STAGE, 0, work, 0.0, progress)
    if distributed.is_main_process():
        torch.save(llama.state_dict(), work / "weights.pt")
        (work / "facts.json").write_text(json.dumps(done.facts))
