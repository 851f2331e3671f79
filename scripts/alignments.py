"""Alignment beside more of the same: one SFT model, gone on with in several ways for as many steps each.

Every arm starts from the same SFT model of its seed and takes as many steps. Figures are test cases averaged over
seeds, differences are paired over cases. On a world the best figures that there can be stand beside them.

    python scripts/alignments.py narrow --seeds 1 2 3     a model too small for its world
    python scripts/alignments.py wide --seeds 1 2 3       one that is near the best there can be
    python scripts/alignments.py ml-100k --seeds 42
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from llmrec.data.dataset import Dataset
from llmrec.data.worlds import Truth
from llmrec.files import read_json
from llmrec.metrics.significance import bootstrap, paired
from llmrec.pipeline import run, trained_folder
from llmrec.recipe import Recipe
from llmrec.recipe_file import load
from llmrec.results import write_result

METRICS = ["hr@1", "hr@10", "ndcg@10", "hr@50"]
CAREFUL = {"events": 1, "validation": {"every": 20, "users": 200}}


@dataclass(frozen=True)
class Study:
    """Where arms are compared, and how fast each learns.

    Attributes:
        start: overrides of `WORLD` for the SFT model; None for the quickstart recipe's.
        steps: of every arm.
        rates: learning rates. Those of worlds were tried on a world of another seed.
        arms: settings of what follows, beside method, steps and rate.
    """

    start: dict[str, Any] | None
    steps: int
    rates: dict[str, float]
    arms: dict[str, dict[str, Any]]


WORLD: dict[str, Any] = {
    "items": {"encoder": "hashing"},
    "tasks": {"history": 20, "windows": 2, "wordings": 2, "item_to_text": 0.0, "text_to_item": 0.0},
    "evaluate": {"ranking": METRICS, "beams": 100, "batch": 64, "exclude_seen": True, "baselines": ["markov"]},
}
S_DPO = {"method": "s-dpo", "events": 8, "beta": 0.1, "sft": 0.1, "rejected": {"random": 4, "beams": 4}}
GRPO = {"method": "grpo", "events": 8, "group": 16, "draw": "with-replacement"}
ARMS = {"s-dpo": S_DPO, "grpo": GRPO, "grpo pass@4": GRPO | {"pass_at": 4}}


def nano(width: int, layers: int, dropout: float) -> dict[str, Any]:
    """A small model of attention heads 32 wide."""
    shape = {"width": width, "layers": layers, "heads": width // 32, "vocabulary": 400, "dropout": dropout}
    return {"base": "nano", **shape}


def world(levels: int, sft_epochs: int, **given: Any) -> dict[str, Any]:
    """A world, codes of two levels of so many, and how long SFT lasts."""
    return {
        "data": {"source": "world", "world": {"events": 12, **given}},
        "indexing": {"levels": 2, "width": levels, "spares": 2},
        "train": [{"method": "sft", "epochs": sft_epochs, "batch": 32, "learning_rate": 3e-3, "save_every": 5000}],
    }


STUDIES = {
    "narrow": Study(
        world(20, 40, users=2000, items=300, groups=8, order=0.4, taste=0.4, popularity=0.6)
        | {"model": nano(32, 1, 0.0)},
        300,
        {"sft": 1e-3, "s-dpo": 1e-3, "grpo": 3e-4},
        ARMS | {"s-dpo": S_DPO | {"beta": 1.0, "sft": 1.0, "rejected": {"random": 15}}},
    ),
    "wide": Study(
        world(12, 30, users=800, items=120, groups=6, order=0.5, taste=0.3) | {"model": nano(64, 2, 0.1)},
        150,
        {"sft": 3e-4, "grpo": 3e-4},
        {name: part for name, part in ARMS.items() if name != "s-dpo"},
    ),
    "ml-100k": Study(
        None,
        40,
        {"sft": 3e-4, "s-dpo": 1e-4, "grpo": 1e-4},
        {
            "s-dpo": S_DPO | CAREFUL,
            "grpo": {"method": "grpo", "group": 16, "sft": 0.1, "kl": 0.01}
            | {"rewards": {"hit": 1.0, "prefix": 0.2}}
            | CAREFUL,
        },
    ),
}


def arms(study: Study, lengths: np.ndarray, rows: int) -> dict[str, dict[str, Any]]:
    """What follows the SFT stage, as long in steps for everybody.

    Args:
        study: what is compared.
        lengths: (users,) events of each training history that something came before.
        rows: packed rows of an epoch of SFT.
    """
    alike = {"batch": 32, "save_every": 5000, "warmup": 0.1}
    again = {"method": "sft", "epochs": study.steps * 32 / rows, "learning_rate": study.rates["sft"]}
    others = {
        name: part
        | {"epochs": study.steps * 32 / int(np.minimum(lengths, part["events"]).sum())}
        | {"learning_rate": study.rates[part["method"]]}
        for name, part in study.arms.items()
    }
    return {name: alike | stage for name, stage in {"sft longer": again, **others}.items()}


def start(name: str, seed: int) -> Recipe:
    """The recipe of the SFT model."""
    if (world := STUDIES[name].start) is not None:
        return Recipe.model_validate(WORLD | world | {"seed": seed})
    whole = load(Path("recipes/quickstart.yaml"), [f"seed={seed}"])
    return whole.model_copy(update={"evaluate": whole.evaluate.model_copy(update={"ranking": METRICS})})


def follow(first: Path, recipe: Recipe, name: str, stage: dict[str, Any]) -> Path:
    """Go on from a copy of a finished run with one more stage."""
    out = first.with_name(f"{first.name}-{name.replace(' ', '-')}")
    if not out.is_dir():
        shutil.copytree(first, out)
    values = recipe.model_dump(mode="json", by_alias=True)
    more = Recipe.model_validate(values | {"train": [*values["train"], stage]})
    return run(more, out, "evaluate")


def measured(run_folder: Path) -> dict[str, np.ndarray]:
    """Metric → (cases,) of the model."""
    table = pq.read_table(trained_folder(run_folder) / "eval" / "per_user.parquet").sort_by("user_id")
    return {metric: table[f"nano {metric}"].to_numpy() for metric in METRICS}


def facts(run_folder: Path) -> dict[str, Any]:
    """How a run was trained, what its lists cover, and its hash."""
    made = read_json(trained_folder(run_folder) / "made.json")
    wide = read_json(trained_folder(run_folder) / "eval" / "metrics.json")["beyond"]["nano"]
    return {"steps": made["facts"]["steps"], "seconds": made["seconds"], "output": made["output"][:16], "beyond": wide}


def table(found: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, Any]:
    """Means with intervals, and paired differences to SFT and to SFT gone on with."""
    mean = {arm: {m: np.mean([one[m] for one in several], axis=0) for m in METRICS} for arm, several in found.items()}
    figures = {arm: {m: asdict(bootstrap(v, 0)) for m, v in one.items()} for arm, one in mean.items()}
    apart = {
        other: {
            arm: {m: asdict(paired(v, mean[other][m], 0)) for m, v in one.items()}
            for arm, one in mean.items()
            if arm != other
        }
        for other in ("sft", "sft longer")
    }
    return {"systems": figures, "beside": apart}


def main() -> None:
    """Run all arms of all seeds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="*", help="some of those that follow SFT; all of them otherwise")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    study = STUDIES[options.name]
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    told: list[dict[str, Any]] = []
    for seed in options.seeds:
        recipe = start(options.name, seed)
        first = run(recipe, options.runs / f"align-{options.name}-{seed}", "evaluate")
        dataset = Dataset.load(first / "data")
        lengths = np.maximum(dataset.before("valid").lengths - 1, 0)
        rows = read_json(first / "train-1-sft" / "made.json")["facts"]["rows"]
        runs = {"sft": first}
        for name, stage in arms(study, lengths, rows).items():
            if options.arms is None or name in options.arms:
                runs[name] = follow(first, recipe, name, stage)
        for name, folder in runs.items():
            found.setdefault(name, []).append(measured(folder))
        told.append({"seed": seed} | {name: facts(folder) for name, folder in runs.items()})
        print(json.dumps({arm: {m: round(float(v[-1][m].mean()), 4) for m in METRICS} for arm, v in found.items()}))
    figures = table(found) | {"seeds": told}
    if study.start is not None:
        cases, world = dataset.cases("test"), recipe.data.world
        figures["best"] = Truth.of(world).best(cases.histories, ["hr@1", "hr@10", "ndcg@10"])
    command = "python " + " ".join(["scripts/alignments.py", *sys.argv[1:]])
    path = options.out / f"align-{options.name}.json"
    write_result(path, command, figures, recipe=recipe.model_dump(mode="json"), seeds=options.seeds, rates=study.rates)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
