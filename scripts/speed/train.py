"""Training: beside a bare loop, beside an example per prefix, memory of new tokens.

python scripts/speed/train.py memory        → results/bench-train-memory.json: rows of new tokens, or whole matrices
python scripts/speed/train.py speed         → results/bench-train-speed.json: tokens a second beside a bare loop
python scripts/speed/train.py feeding       → results/bench-train-feeding.json and .svg: time to a level of NDCG@10
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import typer

import train_feeding
import train_memory
import train_speed
from llmrec import resources
from llmrec.report.result_charts import draw_lines as draw
from llmrec.results.record import write_result
from shared import RESULTS, command_line

Part = Literal["memory", "speed", "feeding"]
PARTS: dict[Part, Callable[[Path], dict[str, Any]]] = {
    "memory": train_memory.measure,
    "speed": train_speed.measure,
    "feeding": train_feeding.measure,
}
LINES = {"packed": "packed histories, every item supervised", "prefixes": "a padded example per prefix"}


def main(
    part: Part = typer.Argument(help="which figures"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file and the plot"),
    work: Path = typer.Option(Path("runs/.bench-train"), help="folder for prepared runs, kept for the next time"),
) -> None:
    """Training: against a bare loop, against an example per prefix, memory of new tokens."""
    resources.require_extras("train", "report")
    figures, path = PARTS[part](work), out / f"bench-train-{part}.json"
    about = {"threads": torch.get_num_threads(), "gpu": torch.cuda.is_available()}
    write_result(path, f"python scripts/speed/train.py {part}", figures, **about)
    if part == "feeding":
        lines = {
            LINES[name]: [(point["seconds"], point["ndcg@10"]) for point in curve]
            for name, curve in figures["curves"].items()
        }
        draw(lines, "Seconds of training", "Validation NDCG@10", path.with_suffix(".svg"))
    print(path)


if __name__ == "__main__":
    command_line(main)
