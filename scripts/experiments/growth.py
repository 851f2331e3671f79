"""How cost grows: a recipe at a quarter, a half and all of its users, seconds and peak memory of every stage.

python scripts/experiments/growth.py beauty-nano         → results/growth-beauty-nano.json and .svg
python scripts/experiments/growth.py games-nano --shares 0.25 0.5 1 --set train.0.epochs=2
python scripts/experiments/growth.py beauty-nano --collect           write what is there, run nothing

Every stage runs in a process of its own, so that the memory of one is not what another left. The test part is not
looked at: the evaluation is of validation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from commands import call_llmrec, finished, typed
from llmrec import resources
from llmrec.recipe_file import fingerprint
from llmrec.report.result_charts import draw_lines as draw
from llmrec.results.record import write_result
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import UNTIL
from llmrec.stage_record import read_record

SHOWN = ("catalogue", "tasks", "train-1-sft", "evaluate-valid")


def run_share(recipe: Path, common: list[str], folder: Path, share: float) -> None:
    """A run with a share of the users, who are counted in the run with all of them."""
    given = list(common)
    if share < 1:
        call_llmrec("run", recipe, *given, "--until", "data", "--out", folder / "1")
        users = read_record(RunFolder(folder / "1").data)["facts"]["users"]
        given.append(f"data.max_users={max(1, round(share * users))}")
    for stage in UNTIL:
        call_llmrec("run", recipe, *given, "--until", stage, "--out", folder / f"{share:g}")


def collect(folder: Path) -> dict[str, Any]:
    """Share → users, items, events and, stage by stage, seconds and peak MiB; of finished runs."""
    found = {}
    for run in sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: float(path.name)):
        stages = finished(run)
        if not stages:
            continue
        facts = stages["data"]["facts"]
        found[run.name] = {name: facts[name] for name in ("users", "items", "interactions")} | {
            "seconds": {name: made["seconds"] for name, made in stages.items()},
            "peak MiB": {name: made.get("peak", {}) for name, made in stages.items()},
            "epochs": [stage.epochs for stage in recipe_of(run).train],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped recipe's name, or a path")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    recipe = resources.recipe_path(options.recipe)
    folder = options.runs / f"{recipe.stem}-growth"
    for share in [] if options.collect else options.shares:
        run_share(recipe, ["evaluate.split=valid", *options.set], folder, share)
    figures, path = collect(folder), options.out / f"growth-{recipe.stem}.json"
    hashes = {name: fingerprint(recipe_of(folder / name)) for name in figures}
    source = recipe_of(folder / next(iter(figures))).data.source if figures else ""
    write_result(path, typed(), figures, source=source, recipe_hashes=hashes)
    lines = {
        stage: [(one["users"], one["seconds"][stage]) for one in figures.values() if stage in one["seconds"]]
        for stage in SHOWN
    }
    draw({stage: points for stage, points in lines.items() if points}, "users", "seconds", path.with_suffix(".svg"))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
