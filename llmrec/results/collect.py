"""A result that can be run again: figures of one recipe over some seeds, with all that they hang on.

`collect` reads finished runs; `llmrec.reproducing` runs one of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from llmrec.run_files import trained_folders

from llmrec import ledger
from llmrec.data.content import content_hash
from llmrec.errors import RunError
from llmrec.evaluate.files import read_cases, read_metrics
from llmrec.made import MADE, read_made
from llmrec.metrics.significance import bootstrap, paired
from llmrec.pipeline import trained_folder
from llmrec.recipe import Recipe
from llmrec.recipe_file import dump, fingerprint, recipe_of, shipped_name, without_places
from llmrec.stale import refuse_stale, refuse_stale_stage
from llmrec.train.log import read_log

CASE = ["user_id", "target"]


def judged(run: Path, recipe: Recipe) -> Path:
    """The folder with a run's figures on its test part.

    Raises:
        RunError: nothing is trained in the run, its test part was not looked at, or it holds parts of another recipe.
    """
    trained = trained_folder(run)
    folder = trained / ("eval" if recipe.evaluate.target == "test" else "eval-test")
    if not (folder / MADE).is_file():
        raise RunError(f"{run} has not been judged on its test part. Type: llmrec evaluate {run} --test")
    hashes = refuse_stale(recipe, run)
    said = recipe.evaluate.model_copy(update={"target": "test"}).model_dump(mode="json")
    refuse_stale_stage(folder, said, {"data": hashes["data"], "model": hashes[trained.name]}, recipe.seed)
    return folder


def collect(runs: Sequence[Path], beside: Sequence[Path] = (), book: Path = ledger.BOOK) -> dict[str, Any]:
    """What a result says of finished runs of one recipe: `recipe`, `seeds`, `data`, `looks`, `figures`.

    Args:
        runs: run folders that differ in their seed alone.
        beside: Parquet files with user_id, target and columns `SYSTEM METRIC` of other systems, for the same cases.
        book: the ledger in which looks at this data's test part are counted.

    Raises:
        RunError: a run is not judged on test, the runs are of several recipes, or `beside` knows other cases.
    """
    recipes = [recipe_of(run) for run in runs]
    folders = [judged(run, recipe) for run, recipe in zip(runs, recipes, strict=True)]
    if len({fingerprint(recipe) for recipe in recipes}) > 1:
        raise RunError("runs of one result differ in more than their seed: " + ", ".join(str(run) for run in runs))
    seeds = [_of_seed(*one) for one in zip(runs, recipes, folders, strict=True)]
    hashes = sorted({seed["data hash"] for seed in seeds})
    mine, facts = fingerprint(recipes[0]), read_made(runs[0] / "data")["facts"]
    looks = [line for line in ledger.read(book) if line["data"]["hash"] in hashes]
    return {
        "recipe": {"name": shipped_name(recipes[0]), "hash": mine, "yaml": dump(without_places(recipes[0]))},
        "seeds": [recipe.seed for recipe in recipes],
        "data": {
            "source": recipes[0].data.source,
            "hash": hashes[0] if len(hashes) == 1 else "one of each seed: ties in time are broken by the seed",
            **{name: facts[name] for name in ("users", "items", "interactions")},
        },
        "looks": {"of this recipe": sum(line["recipe hash"] == mine for line in looks), "at this data": len(looks)},
        "figures": _pooled(folders, beside) | {"seeds": seeds},
    }


def _of_seed(run: Path, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """One run's figures, what its stages took, and what it was made of."""
    metrics = read_metrics(folder)
    stages: dict[str, Any] = {stage.relative_to(run).as_posix(): read_made(stage) for stage in _stages(run)}
    return {
        "seed": recipe.seed,
        "run": run.name,
        "commit": read_made(folder.parent).get("commit", "unknown"),
        "device": read_made(folder.parent)["device"],
        "data hash": content_hash(run / "data"),
        "metrics": metrics["systems"][metrics["model"]],
        "seconds": {name: max(made["seconds"], _trained_for(run / name)) for name, made in stages.items()},
        "peak MiB": {name: made["peak"] for name, made in stages.items() if "peak" in made},
        "hashes": {name: made["output"][:16] for name, made in stages.items()},
    }


def _stages(run: Path) -> list[Path]:
    """The folders of all stages, in the order of a run."""
    first = [run / name for name in ("data", "items", "catalogue", "tasks")]
    whole = [*first, *trained_folders(run), *sorted(run.glob("train-*-*/eval*"))]
    return [stage for stage in whole if (stage / MADE).is_file()]


def _trained_for(stage: Path) -> float:
    """Seconds that a training has told, over all the times it was gone on with; 0 for other stages."""
    log = stage / "log.jsonl"
    return float(read_log(log)[-1]["seconds"]) if log.is_file() else 0.0


def _pooled(folders: list[Path], beside: Sequence[Path]) -> dict[str, Any]:
    """Each case's figures averaged over seeds, then means, intervals and paired differences over cases."""
    tables = [
        read_cases(folder / "per_user.parquet").sort_by([(name, "ascending") for name in CASE]) for folder in folders
    ]
    if any(table["user_id"] != tables[0]["user_id"] for table in tables):
        raise RunError("runs of one result were judged on other users. Give them one data set and one split.")
    about = read_metrics(folders[0])
    columns = [name for name in tables[0].column_names if name not in CASE]
    mean = {name: np.mean([table[name].to_numpy() for table in tables], axis=0) for name in columns}
    for file in beside:
        mean |= _beside(file, tables[0])
    systems: dict[str, dict[str, Any]] = {}
    against: dict[str, dict[str, Any]] = {}
    for name, values in mean.items():
        system, metric = name.rsplit(" ", 1)
        systems.setdefault(system, {})[metric] = asdict(bootstrap(values, 0))
        if system != about["model"] and f"{about['model']} {metric}" in mean:
            against.setdefault(system, {})[metric] = asdict(paired(mean[f"{about['model']} {metric}"], values, 0))
    return {"protocol": about["protocol"], "model": about["model"], "systems": systems, "paired": against}


def _beside(file: Path, cases: pa.Table) -> dict[str, np.ndarray]:
    """Another system's figures, in the order of some cases."""
    given = read_cases(file).sort_by([(name, "ascending") for name in CASE])
    if any(given[name].to_pylist() != cases[name].to_pylist() for name in CASE):
        raise RunError(f"{file} holds figures of other cases than the runs. Make it from the same data and split.")
    return {name: given[name].to_numpy() for name in given.column_names if name not in CASE}
