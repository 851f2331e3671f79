"""`llmrec bench train`: speed beside a bare loop, time to a level beside the field's feeding, memory of new tokens.

Each part is a JSON of its own in results/, so that each names the commit and the load of the machine it was measured
under.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmrec import extras
from llmrec.bench import train_feeding, train_memory, train_speed
from llmrec.errors import LlmrecError
from llmrec.report.curves import draw
from llmrec.results import write_result

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "memory": train_memory.measure,
    "speed": train_speed.measure,
    "feeding": train_feeding.measure,
}


def measure(
    part: str, out: Path, work: Path, tiny: bool = False, tell: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Measure one part, or all, and write bench-train-PART.json.

    Args:
        part: one of `PARTS`, or all.
        out: folder for the JSON files, and for a plot of the curves.
        work: folder for prepared runs; what is in it already is not made again.
        tiny: at a size that proves the path and not the numbers; written as bench-train-PART-tiny.json.
        tell: told what is at work.

    Returns:
        The JSON files.

    Raises:
        LlmrecError: no such part, or packages or data are missing.
    """
    if part not in (*PARTS, "all"):
        raise LlmrecError(f"there is no part '{part}' of the bench of training; there are: {', '.join(PARTS)}, all.")
    extras.need("train", "report")
    return [_one(name, out, work, tiny, tell) for name in (PARTS if part == "all" else [part])]


def _one(part: str, out: Path, work: Path, tiny: bool, tell: Callable[[str], None]) -> Path:
    figures = PARTS[part](work / ("tiny" if tiny else "full"), tiny, tell)
    path = out / f"bench-train-{part}{'-tiny' if tiny else ''}.json"
    command = f"llmrec bench train {part}" + (" --tiny" if tiny else "")
    write_result(path, command, figures, threads=torch.get_num_threads(), gpu=torch.cuda.is_available())
    if "curves" in figures:
        lines = {
            {"packed": "packed histories, every item supervised", "prefixes": "a padded example per prefix"}[name]: [
                (point["seconds"], point["ndcg@10"]) for point in curve
            ]
            for name, curve in figures["curves"].items()
        }
        draw(lines, "Seconds of training", "Validation NDCG@10", path.with_suffix(".svg"))
    return path
