"""Results: one JSON file under results/ for each measurement, with all that is needed to repeat it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec import provenance
from llmrec.data.dataset import content_hash
from llmrec.errors import RunError
from llmrec.evaluate.files import read_cases, read_metrics
from llmrec.files import read_json, write_json
from llmrec.metrics.significance import bootstrap, paired
from llmrec.recipe import Recipe
from llmrec.recipe_file import dump, fingerprint, portable, shipped_name
from llmrec.results import ledger
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import require_current
from llmrec.stage_record import RECORD_FILE, StageRecord, read_record
from llmrec.train.log import LOG, read_log

CASE = ["user_id", "target"]


def write_result(path: Path, command: str, figures: dict[str, Any], **about: Any) -> None:
    """Write one result.

    Args:
        path: a file under results/.
        command: prints these figures again.
        figures: the numbers.
        about: protocol, seeds, hashes of recipe and data, dtype, threads, …

    Raises:
        RunError: another file than a result is there.
    """
    before = read_json(path) if path.is_file() else {"command": "", "figures": {}}
    if not isinstance(before, dict) or not before.keys() >= {"command", "figures"}:
        raise RunError(f"{path} is no result, and is not replaced. Move it away, or choose another folder with --out.")
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    load = [round(part, 2) for part in os.getloadavg()]
    write_json(
        path,
        {
            "command": command,
            "date": time.strftime("%Y-%m-%d"),
            "commit": provenance.commit(),
            "machine": {"device": provenance.device(), "memory_gib": memory, "load": load},
            "versions": provenance.versions(),
            **about,
            "figures": figures,
        },
    )


@dataclass(frozen=True)
class FinishedRun:
    """A run that was judged on its test split, whole and of one recipe.

    Attributes:
        run: its folder.
        recipe: its recipe.
        hashes: stage → hash of its files.
        made: stage → its made.json.
    """

    run: RunFolder
    recipe: Recipe
    hashes: dict[str, str]
    made: dict[str, StageRecord]

    @property
    def figures(self) -> Path:
        """The folder of its evaluation."""
        return self.run.evaluation("test")


def tested(path: Path) -> FinishedRun:
    """A run and what its stages are, if it was judged on its test split; its weights may be elsewhere.

    Raises:
        RunError: it was not, or it holds stages of two recipes.
    """
    run, recipe = RunFolder(path), recipe_of(path)
    if not (run.evaluation("test") / RECORD_FILE).is_file():
        raise RunError(f"{path} has not been judged on its test part. Type: llmrec evaluate {path} --test")
    hashes = require_current(run, plan(recipe, "test"), recipe.seed, all_files=False)
    return FinishedRun(run, recipe, hashes, {name: read_record(run.stage(name)) for name in hashes})


def collect(paths: Sequence[Path], beside: Sequence[Path] = (), book: Path = ledger.LEDGER) -> dict[str, Any]:
    """The result of finished runs of one recipe: `recipe`, `seeds`, `data`, `looks`, `figures`.

    Args:
        paths: run folders that differ in their seed alone.
        beside: Parquet files with user_id, target and columns `SYSTEM METRIC` of other systems, for the same cases.
        book: the ledger in which looks at this data's test part are counted.

    Raises:
        RunError: a run is not judged on test, the runs are of several recipes, or `beside` holds other cases.
    """
    runs = [tested(path) for path in paths]
    if len({fingerprint(one.recipe) for one in runs}) > 1:
        raise RunError("runs of one result differ in more than their seed: " + ", ".join(map(str, paths)))
    seeds = [_of_seed(one) for one in runs]
    recipe, facts = runs[0].recipe, runs[0].made["data"]["facts"]
    hashes, mine = sorted({seed["data hash"] for seed in seeds}), fingerprint(recipe)
    looks = [line for line in ledger.read(book) if line["data"]["hash"] in hashes]
    return {
        "recipe": {"name": shipped_name(mine), "hash": mine, "yaml": dump(portable(recipe))},
        "seeds": [one.recipe.seed for one in runs],
        "data": {
            "source": recipe.data.source,
            "hash": hashes[0] if len(hashes) == 1 else "one of each seed: ties in time are broken by the seed",
            **{name: facts[name] for name in ("users", "items", "interactions")},
        },
        "looks": {"of this recipe": sum(line["recipe hash"] == mine for line in looks), "at this data": len(looks)},
        "figures": _pooled([one.figures for one in runs], beside) | {"seeds": seeds},
    }


def _of_seed(one: FinishedRun) -> dict[str, Any]:
    """One run's figures, what its stages took, and what it was made of."""
    metrics, trained = read_metrics(one.figures), read_record(one.run.last_trained)
    return {
        "seed": one.recipe.seed,
        "run": one.run.path.name,
        "commit": trained.get("commit", "unknown"),
        "device": trained["device"],
        "data hash": content_hash(one.run.data),
        "metrics": metrics["systems"][metrics["model"]],
        "seconds": {name: max(made["seconds"], _trained_for(one.run.stage(name))) for name, made in one.made.items()},
        "peak MiB": {name: made["peak"] for name, made in one.made.items() if "peak" in made},
        "hashes": {name: value[:16] for name, value in one.hashes.items()},
    }


def _trained_for(stage: Path) -> float:
    """Seconds of a training, over all the times that it was resumed; 0 for other stages."""
    log = stage / LOG
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
