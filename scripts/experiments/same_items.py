"""Whether both engines give every user of a run the same items in the same order.

python scripts/experiments/same_items.py runs/quickstart

Recommends to everybody on transformers and on vLLM (float32), each in a process of its own, as `llmrec recommend
--all-users` does, and writes results/serve-same-items.json. Ends with 1 where a single item differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from llmrec.results.record import write_result

OPTIONS = {"transformers": [], "vllm": ["--engine", "vllm", "--dtype", "float32"]}


def recommended(run: Path, engine: str, folder: Path) -> pa.Table:
    """user_id, rank, item_id and score for every user, by one engine."""
    out = folder / f"{engine}.parquet"
    words = [sys.executable, "-m", "llmrec", "recommend", str(run), "--all-users", "--out", str(out), *OPTIONS[engine]]
    subprocess.run(words, check=True)
    return pq.read_table(out)


def compared(one: pa.Table, other: pa.Table) -> dict[str, Any]:
    """How many users and items are alike, and how far scores of the same item are apart."""
    rows = [
        list(zip(*(table[name].to_pylist() for name in ("user_id", "rank", "item_id")), strict=True))
        for table in (one, other)
    ]
    differ = set(rows[0]) ^ set(rows[1])
    users = set(one["user_id"].to_pylist())
    figures: dict[str, Any] = {
        "users": len(users),
        "users with the same items in the same order": len(users - {row[0] for row in differ}),
        "items": len(rows[0]),
        "items at the same rank": len(set(rows[0]) & set(rows[1])),
    }
    if not differ:
        apart = np.abs(one["score"].to_numpy() - other["score"].to_numpy())
        figures["scores apart at most, in nats"] = float(f"{apart.max():.2g}")
    return figures


def main(run: Path, out: Path = Path("results")) -> None:
    """Recommend twice, compare, write what was found."""
    with tempfile.TemporaryDirectory() as work:
        figures = compared(*(recommended(run, engine, Path(work)) for engine in OPTIONS))
    write_result(
        out / "serve-same-items.json",
        f"python scripts/experiments/same_items.py runs/{run.resolve().name}",
        figures,
        protocol="llmrec recommend --all-users on transformers and on vLLM with float32 weights; 10 items, none seen",
    )
    print(json.dumps(figures, indent=1))
    raise typer.Exit(0 if figures["users with the same items in the same order"] == figures["users"] else 1)


if __name__ == "__main__":
    typer.run(main)
