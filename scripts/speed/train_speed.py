"""Tokens a second of our trainer beside a bare PyTorch loop: same model, same rows, same positions scored.

Part `speed` of train.py.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train_bare as bare
import train_setting as setting
from llmrec import resources
from llmrec.contracts import Sequences
from llmrec.recipe import Sft
from llmrec.recipe_file import load
from llmrec.train import sft
from llmrec.train.packing import IGNORE, Order, PackedRows, collate
from shared import ratio, take_turns, tell

AIM, AIM_GPU = 0.9, 0.85
# Dense bf16 operations a second, as their makers give them, by a part of the device's name.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "4090": 165e12, "A10": 125e12}


def measure(work: Path) -> dict[str, Any]:
    """Train each model a few steps, both ways in turn.

    Args:
        work: folder for prepared runs.

    Returns:
        Name of a model → figures.
    """
    gpu = torch.cuda.is_available()
    small, large = ["model.dropout=0", "train.0.batch=32"], [f"train.0.batch={32 if gpu else 2}"]
    plans = {
        "nano": ("quickstart-text", small, 30 if gpu else 12),
        "smollm2 lora": ("ml100k-smollm2", large, 20 if gpu else 4),
    }
    if gpu:
        plans["smollm2 full"] = ("ml100k-smollm2", [*large, "model.adapt=full"], 20)
    found = {}
    for name, (recipe, overrides, steps) in plans.items():
        tell(name)
        chosen = load(resources.recipe_path(recipe), [*overrides, "items.encoder=hashing"])
        ready = setting.prepare(chosen, work / name.replace(" ", "-"))
        found[name] = compare(ready, steps, rounds=5 if name == "nano" else 3)
    return found


def compare(ready: setting.Setting, steps: int, rounds: int) -> dict[str, Any]:
    """Train the same steps by both, in turn, each time from the same weights."""
    stage = ready.stage.model_copy(update={"epochs": 1.0, "save_every": 10**9})
    rows = _rows(ready, steps * stage.batch)
    marks: dict[str, list[list[float]]] = {"ours": [], "bare": []}

    def turn(name: str) -> None:
        marks[name].append(TRAINERS[name](copy.deepcopy(ready.model), rows, stage))

    contenders: dict[str, Callable[[], Any]] = {name: partial(turn, name) for name in marks}
    whole = take_turns(contenders, rounds)
    # The first steps are left out: they meet cold caches. The marks of the warm-up call are dropped as well.
    paces = {name: [(m[-1] - m[1]) / (len(m) - 2) for m in marks[name][1:]] for name in marks}
    tokens = sum(len(rows.examples[e].tokens) for row in rows.rows for e in row)
    rate = {name: tokens / steps / float(np.median(pace)) for name, pace in paces.items()}
    return {
        "tokens a second": {name: round(value) for name, value in rate.items()},
        "ours over bare": ratio(paces["bare"], paces["ours"]),
        "ours over bare, with set-up and last checkpoint": ratio(whole["bare"], whole["ours"]),
        "aim": AIM_GPU if torch.cuda.is_available() else AIM,
        "steps": steps,
        "rows a step": stage.batch,
        "tokens": tokens,
        "supervised tokens": _scored(rows),
        "precision": stage.precision,
        "rounds": rounds,
        **(_on_gpu(ready.model, rows, stage, rate["ours"]) if torch.cuda.is_available() else {}),
    }


def ours(model: Any, rows: PackedRows, stage: Sft) -> list[float]:
    """Seconds at the end of every step of our trainer, by the clock of the machine."""
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        sft.train(model, rows, stage, 0, Path(work), 0.0, lambda done: marks.append(_now()))
    return marks


def by_bare_loop(model: Any, rows: PackedRows, stage: Sft) -> list[float]:
    """As `ours`, of the bare loop."""
    marks: list[float] = []
    order = list(Order(len(rows), stage.batch, 0))
    cuts = range(0, len(order), stage.batch)
    batches = (collate([rows[row] for row in order[cut : cut + stage.batch]]) for cut in cuts)
    bare.train(model, batches, len(cuts), stage, lambda: marks.append(_now()))
    return marks


TRAINERS = {"ours": ours, "bare": by_bare_loop}


def _rows(ready: setting.Setting, wanted: int) -> PackedRows:
    """The first rows of a run's packed examples: as many as the steps take."""
    rows = PackedRows(ready.encoded, ready.stage.pack_length, np.random.default_rng(0))
    rows.rows = Sequences(rows.rows.offsets[: wanted + 1], rows.rows.items)
    return rows


def _scored(rows: PackedRows) -> int:
    return sum(int((rows[row]["labels"] != IGNORE).sum()) for row in range(len(rows)))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _on_gpu(model: Any, rows: PackedRows, stage: Sft, rate: float) -> dict[str, Any]:
    """Share of the device's arithmetic that was used, and memory at most. Written, not yet run."""
    name = torch.cuda.get_device_name(0)
    peak = next((value for part, value in PEAK.items() if part in name), None)
    lengths = [len(rows.examples[e].tokens) for row in rows.rows for e in row]
    operations = per_token(model, _scored(rows) / sum(lengths), float(np.average(lengths, weights=lengths)))
    torch.cuda.reset_peak_memory_stats()
    ours(copy.deepcopy(model), rows, stage)
    return {
        "peak memory, GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "model FLOPs utilisation": None if peak is None else round(rate * operations / peak, 4),
    }


def per_token(model: Any, scored: float, length: float) -> float:
    """Floating-point operations that training needs a token, recomputation not counted.

    Args:
        model: whose frozen matrices need no gradient of their own.
        scored: share of positions that meet the output head.
        length: tokens of the example that a token stands in, on average over tokens.

    Source: Chowdhery et al. 2022, arXiv 2204.02311, appendix B: 6 a parameter and 12 · layers · width · length for
    attention, halved here since no position looks ahead.
    """
    inner, trained = bare.plain(model), {id(p) for p in model.parameters() if p.requires_grad}
    config = inner.config.get_text_config()
    total = 0.0
    for parameter in inner.get_decoder().parameters():
        if parameter.ndim == 2 and parameter is not inner.get_input_embeddings().weight:
            total += (6 if id(parameter) in trained else 4) * parameter.numel()
    head = inner.get_output_embeddings().weight
    total += (6 if id(head) in trained else 4) * head.numel() * scored
    return total + 6 * config.num_hidden_layers * config.hidden_size * length
