"""Run a recipe with several seeds (of model and tie-break) and write one result with intervals over users.

python scripts/seeds.py quickstart --seeds 42 43 44
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from llmrec.files import read_json
from llmrec.metrics.significance import bootstrap, paired
from llmrec.pipeline import trained_folder
from llmrec.results import write_result


def one_run(recipe: str, seed: int, overrides: list[str]) -> Path:
    """Run (or go on with, or skip) one seed."""
    out = Path("runs") / f"{recipe}-seed{seed}"
    command = [
        sys.executable,
        "-m",
        "llmrec.cli.main",
        "run",
        recipe,
        f"seed={seed}",
        *overrides,
        "--out",
        str(out),
        "--json",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_WAIT_POLICY": "passive"})
    return out


def pooled(runs: list[Path]) -> dict[str, Any]:
    """Each user's figures averaged over seeds, then means, intervals and paired differences over users."""
    tables = [pq.read_table(trained_folder(run) / "eval" / "per_user.parquet").sort_by("user_id") for run in runs]
    about = read_json(trained_folder(runs[0]) / "eval" / "metrics.json")
    columns = [name for name in tables[0].column_names if " " in name]
    mean = {name: np.mean([table[name].to_numpy() for table in tables], axis=0) for name in columns}
    model = about["model"]
    systems: dict[str, dict[str, Any]] = {}
    against: dict[str, dict[str, Any]] = {}
    for name, values in mean.items():
        system, metric = name.rsplit(" ", 1)
        systems.setdefault(system, {})[metric] = asdict(bootstrap(values, 0))
        if system != model:
            against.setdefault(system, {})[metric] = asdict(paired(mean[f"{model} {metric}"], values, 0))
    return {"protocol": about["protocol"], "model": model, "systems": systems, "paired": against}


def per_seed(run: Path) -> dict[str, Any]:
    """One run's figures, seconds of each stage, and its hashes."""
    metrics = read_json(trained_folder(run) / "eval" / "metrics.json")
    made = {path.parent.name: read_json(path) for path in sorted(run.rglob("made.json")) if ".work" not in path.parts}
    return {
        "run": run.name,
        "seconds": {stage: part["seconds"] for stage, part in made.items()},
        "hashes": {stage: part["output"][:16] for stage, part in made.items()},
        "means": {system: {m: v["mean"] for m, v in table.items()} for system, table in metrics["systems"].items()},
        "difference": {system: table["hr@10"] for system, table in metrics["paired"].items() if "hr@10" in table},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    runs = [one_run(options.recipe, seed, options.set) for seed in options.seeds]
    figures = pooled(runs) | {"seeds": [per_seed(run) for run in runs]}
    command = "python " + " ".join(["scripts/seeds.py", *sys.argv[1:]])
    path = Path("results") / f"{options.recipe}-seeds.json"
    write_result(path, command, figures, recipe=Path(f"recipes/{options.recipe}.yaml").read_text(), seeds=options.seeds)
    print(
        json.dumps({s: {m: round(v["mean"], 4) for m, v in t.items()} for s, t in figures["systems"].items()}, indent=1)
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
