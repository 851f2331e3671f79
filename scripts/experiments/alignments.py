"""Alignment beside more of the same: one SFT model, gone on with in several ways for as many steps each.

Every arm starts from the same SFT model of its seed and takes as many steps. Figures are test cases averaged over
seeds, differences are paired over cases. On a world the best figures that there can be stand beside them.

python scripts/experiments/alignments.py ordered --seeds 1 2 3          → results/align-ordered.json
python scripts/experiments/alignments.py crowded --seeds 1 2 3          → results/align-crowded.json
python scripts/experiments/alignments.py ml-100k --seeds 42             → results/align-ml-100k.json
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.data.dataset import Dataset
from llmrec.data.synthetic import GroundTruth
from llmrec.evaluate.files import read_cases, read_metrics
from llmrec.metrics.significance import bootstrap, paired
from llmrec.recipe import Recipe
from llmrec.recipe_file import load
from llmrec.results.record import write_result
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder
from llmrec.stage_record import read_record

METRICS = ["hr@1", "hr@10", "ndcg@10", "hr@50"]


@dataclass(frozen=True)
class Study:
    """Where arms are compared, and how fast each learns.

    Attributes:
        start: the recipe of the SFT model; None for that of quickstart-text.
        steps: of every arm.
        rate: learning rate of SFT gone on with.
        arms: settings of what follows, all but the steps. Those of worlds were chosen on worlds of another seed.
    """

    start: dict[str, Any] | None
    steps: int
    rate: float
    arms: dict[str, dict[str, Any]]


def world(events: dict[str, Any], codes: int, sft: dict[str, Any], **model: int) -> dict[str, Any]:
    """The recipe of an SFT model that ends as the best it ever was on a world of about 12 events a user."""
    ends = {"validation": {"every": 100 * sft["epochs"] // 30, "users": 2000, "patience": 30}, "save_every": 5000}
    return {
        "data": {"source": "synthetic", "synthetic": {"events": 12, "popularity": 0.6, **events}},
        "items": {"encoder": "hashing"},
        "indexing": {"levels": 2, "width": codes, "reserved_tokens": 2},
        "tasks": {"history": 20, "passes": 2, "templates": 2, "item_to_text": 0.0, "text_to_item": 0.0},
        "model": {"base": "nano", "vocabulary": 400, "dropout": 0.0, **model},
        "train": [{"method": "sft", "batch": 32, **sft, **ends}],
        "evaluate": {"ranking": METRICS, "beams": 100, "batch": 64, "exclude_seen": True, "baselines": ["markov"]},
    }


# What comes next is most often one item (order), and the model is too small to learn which.
ORDERED = world(
    {"users": 1500, "items": 80, "groups": 6, "order": 0.5, "taste": 0.3},
    10,
    {"epochs": 60, "learning_rate": 3e-3},
    width=32,
    layers=1,
    heads=1,
)
# One item in a third of the cases, many by taste in the others, and the model is nearly as good as can be.
CROWDED = world(
    {"users": 2000, "items": 60, "groups": 4, "order": 0.35, "taste": 0.55},
    8,
    {"epochs": 20, "learning_rate": 2e-3},
    width=64,
    layers=2,
    heads=2,
)
S_DPO = {"method": "s-dpo", "max_positions": 8, "beta": 0.1, "negatives": {"random": 4, "beams": 4}}
GRPO = {"method": "grpo", "group_size": 16}
DRAWN = GRPO | {"max_positions": 8, "sampling": "with-replacement", "learning_rate": 3e-4}
PLAIN = DRAWN | {"advantage": "dr-grpo", "kl": 0.0}
GUARDED = {"s-dpo": S_DPO | {"sft": 1.0, "learning_rate": 1e-3}, "grpo": DRAWN | {"sft": 1.0}}
BARE = {
    "plain grpo": PLAIN,
    "plain grpo and pass@8": PLAIN | {"pass_at_k": 8},
    "pass@8": PLAIN | {"pass_at_k": 8, "advantage": "pass"},
}
CAREFUL = {"max_positions": 8, "learning_rate": 1e-4, "sft": 1.0, "validation": {"every": 30, "users": 943}}
REAL = {"s-dpo": S_DPO | CAREFUL, "grpo": GRPO | CAREFUL}
STUDIES = {
    "ordered": Study(ORDERED, 300, 3e-4, GUARDED),
    "crowded": Study(CROWDED, 300, 3e-4, BARE),
    "ml-100k": Study(None, 120, 1e-4, REAL),
}


def arms(study: Study, lengths: np.ndarray, rows: int) -> dict[str, dict[str, Any]]:
    """What follows the SFT stage, as long in steps for everybody.

    Args:
        study: what is compared.
        lengths: (users,) events of each training history that something came before.
        rows: packed rows of an epoch of SFT.
    """
    alike = {"batch": 32, "save_every": 5000, "warmup": 0.1}
    again = {"method": "sft", "epochs": study.steps * 32 / rows, "learning_rate": study.rate}
    others = {
        name: part | {"epochs": study.steps * 32 / int(np.minimum(lengths, part["max_positions"]).sum())}
        for name, part in study.arms.items()
    }
    return {name: alike | stage for name, stage in {"sft longer": again, **others}.items()}


def start(name: str, seed: int) -> Recipe:
    """The recipe of the SFT model."""
    if (given := STUDIES[name].start) is not None:
        return Recipe.model_validate(given | {"seed": seed})
    whole = load(Path("recipes/quickstart-text.yaml"), [f"seed={seed}"])
    return whole.model_copy(update={"evaluate": whole.evaluate.model_copy(update={"ranking": METRICS})})


def follow(first: Path, recipe: Recipe, name: str, stage: dict[str, Any]) -> Path:
    """Go on from a copy of a finished run with one more stage."""
    out = first.with_name(f"{first.name}-{name.replace(', ', '-').replace(' ', '-')}")
    if not out.is_dir():
        shutil.copytree(first, out)
    values = recipe.model_dump(mode="json")
    more = Recipe.model_validate(values | {"train": [*values["train"], stage]})
    return run(more, out, "evaluate")


def measured(run_folder: Path) -> dict[str, np.ndarray]:
    """Metric → (cases,) of the model."""
    table = read_cases(RunFolder(run_folder).evaluation("test") / "per_user.parquet").sort_by("user_id")
    return {metric: table[f"nano {metric}"].to_numpy() for metric in METRICS}


def facts(run_folder: Path) -> dict[str, Any]:
    """How a run was trained, what its lists cover, and its hash."""
    made = read_record(RunFolder(run_folder).last_trained)
    wide = read_metrics(RunFolder(run_folder).evaluation("test"))["beyond"]["nano"]
    return {"steps": made["facts"]["steps"], "seconds": made["seconds"], "output": made["output"][:16], "beyond": wide}


def table(found: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, Any]:
    """Means with intervals, and paired differences to SFT, to SFT gone on with and to GRPO without its guard rails."""
    mean = {arm: {m: np.mean([one[m] for one in several], axis=0) for m in METRICS} for arm, several in found.items()}
    figures = {arm: {m: asdict(bootstrap(v, 0)) for m, v in one.items()} for arm, one in mean.items()}
    apart = {
        other: {
            arm: {m: asdict(paired(v, mean[other][m], 0)) for m, v in one.items()}
            for arm, one in mean.items()
            if arm != other
        }
        for other in ("sft", "sft longer", "plain grpo")
        if other in mean
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
        dataset = Dataset.load(RunFolder(first).data)
        lengths = np.maximum(dataset.before("valid").lengths - 1, 0)
        rows = read_record(RunFolder(first).last_trained)["facts"]["rows"]
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
        cases, world = dataset.cases("test"), recipe.data.synthetic
        figures["best"] = GroundTruth.of(world).best(cases.histories, ["hr@1", "hr@10", "ndcg@10"])
    seeds = " ".join(map(str, options.seeds))
    command = f"python scripts/experiments/alignments.py {options.name} --seeds {seeds}"
    path = options.out / f"align-{options.name}.json"
    write_result(
        path,
        command,
        figures,
        recipe=recipe.model_dump(mode="json"),
        seeds=options.seeds,
        rate=study.rate,
        arms=study.arms,
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
