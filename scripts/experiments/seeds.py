"""Run a recipe with several seeds (of model and tie-break), open their test parts, and write one result.

python scripts/experiments/seeds.py beauty-nano --seeds 42 43 44        → results/beauty-nano.json
… beauty-nano --collect                 of the runs that are there and judged on test, and of no other
… --beside runs/sasrec-users.parquet    systems of teachers.py --users, compared in pairs
… --name beauty-nano-long --set train.0.epochs=20       another name than the recipe's

A run that is made is not made again, one that was stopped goes on, and a look that is in the ledger is not taken again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from commands import call_llmrec, typed
from llmrec import resources
from llmrec.errors import RunError
from llmrec.results import ledger
from llmrec.results.record import collect, tested, write_result
from llmrec.run.layout import recipe_of


def one_run(options: argparse.Namespace, seed: int) -> Path:
    """Run (or go on with, or skip) one seed, and open its test part."""
    out = options.runs / f"{options.name}-seed{seed}"
    call_llmrec("run", options.recipe, f"seed={seed}", *options.set, "--out", out)
    if recipe_of(out).evaluate.split != "test":
        call_llmrec("evaluate", out, "--test", "--ledger", options.ledger, "--why", f"result {options.name}")
    return out


def there(options: argparse.Namespace) -> list[Path]:
    """Runs of the result that are judged on test; the others are named on standard error."""
    found = sorted(options.runs.glob(f"{options.name}-seed*"), key=lambda run: int(run.name.rsplit("seed", 1)[1]))
    whole = []
    for run in found:
        try:
            tested(run)
            whole.append(run)
        except RunError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not whole:
        sys.exit(f"no run {options.runs / options.name}-seed… is judged on its test part")
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped recipe's name, or a path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--collect", action="store_true", help="run nothing and look at nothing")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], metavar="PARQUET")
    parser.add_argument("--name", help="of runs and result; the recipe's otherwise")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--ledger", type=Path, default=ledger.LEDGER)
    options = parser.parse_args()
    options.name = options.name or resources.recipe_path(options.recipe).stem
    runs = there(options) if options.collect else [one_run(options, seed) for seed in options.seeds]
    told = collect(runs, options.beside, options.ledger)
    told["recipe"]["name"] = told["recipe"]["name"] or options.name
    path = options.out / f"{options.name}.json"
    write_result(path, typed(), told.pop("figures"), **told)
    figures = json.loads(path.read_text())["figures"]
    print(json.dumps({s: {m: round(v["mean"], 4) for m, v in t.items()} for s, t in figures["systems"].items()}))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
