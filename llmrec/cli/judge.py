"""Commands about figures: `llmrec evaluate`, `llmrec compare`, `llmrec reproduce`, `llmrec report`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich import box
from rich.table import Table

from llmrec.cli.arguments import AS_JSON, LEDGER, RUN, current_run, parsed_path
from llmrec.cli.screen import console, interval, named_run, say, screen, show_figures, stages
from llmrec.errors import RunError

if TYPE_CHECKING:
    from llmrec.evaluate.files import EvaluatedRun
    from llmrec.results.reproduce import RecordedResult, Reproduced
    from llmrec.run.stage import Split


def evaluate(
    run: Path = RUN,
    target: str = typer.Option(None, help="test or valid; what the recipe is judged on otherwise"),
    test: bool = typer.Option(False, "--test", help="judge on test as the recipe says, and write it into the ledger"),
    ledger: Path = typer.Option("results/ledger.jsonl", help="--test: the ledger of test evaluations"),
    why: str = typer.Option("", help="--test: reason for this evaluation"),
    beams: int = typer.Option(None, help="another beam width than the recipe's; shown, not kept"),
    engine: str = typer.Option("transformers", help="what runs the model: transformers or vllm"),
    as_json: bool = AS_JSON,
) -> None:
    """Evaluate a run on its held-out items, beside the baselines, and show the table; nothing is trained.

    The figures stay in the run, in a folder for each split; with `--beams` or `--engine vllm` they are shown only.
    `--test` opens the test part of a run that is judged on validation: a line is added to the ledger
    (`results/ledger.jsonl`), which belongs in version control.
    """
    if target not in (None, "test", "valid"):
        raise RunError(f"--target is test or valid, not '{target}'.")
    if test and (target == "valid" or beams is not None or engine != "transformers"):
        raise RunError("--test judges as the recipe says: leave out --target, --beams and --engine.")
    result = _opened(run, ledger, why) if test else _evaluated(run, cast("Split | None", target), beams, engine)
    say(result) if as_json else show_figures(result)


def _opened(run: Path, ledger: Path, why: str) -> dict[str, Any]:
    """Evaluate on the test part and record that in the ledger."""
    from llmrec.evaluate.files import read_evaluation
    from llmrec.results.ledger import evaluate_test

    with stages() as progress:
        return read_evaluation(evaluate_test(run, ledger, why, progress))


def _evaluated(run: Path, target: Split | None, beams: int | None, engine: str) -> dict[str, Any]:
    """Figures on the recipe's split or on another one; kept where the recipe's own settings make them."""
    from llmrec.decode.generative import parse_engine
    from llmrec.evaluate.files import read_evaluation
    from llmrec.run import execute
    from llmrec.run.layout import recipe_of
    from llmrec.run.plan import plan

    recipe = recipe_of(run)
    if target == "test" and recipe.evaluate.split == "valid":
        raise RunError(
            f"{run} is judged on validation (evaluate.split: valid) and keeps its test part shut. Open it with "
            f"`llmrec evaluate {run} --test`, which is written into the ledger."
        )
    split = target or recipe.evaluate.split
    if beams is None and parse_engine(engine) == "transformers":
        with stages() as progress:
            return read_evaluation(execute.judge(recipe, run, plan(recipe, split)[-1], progress))
    changed = recipe_of(run, [f"evaluate.split={split}", *([] if beams is None else [f"evaluate.beams={beams}"])])
    with stages() as progress, tempfile.TemporaryDirectory() as folder:
        execute.judge(changed, run, plan(changed)[-1], progress, (Path(folder), parse_engine(engine)))
        return read_evaluation(Path(folder))


def compare(
    first: Path = RUN,
    second: Path = typer.Argument(help="another, judged the same way"),
    as_json: bool = AS_JSON,
) -> None:
    """Two runs side by side: every metric with its interval, the paired difference and its p-value."""
    from llmrec.evaluate.files import compare as compare_figures

    a, b = _judged(first), _judged(second)
    compared = compare_figures(a, b)
    if as_json:
        say(compared)
        return
    caption = "95 % intervals over cases; Δ: first minus second, paired; p: permutation test, two-sided"
    table = Table(box=box.SIMPLE, caption=f"{len(a.cases)} cases; {caption}")
    for title in ("", *(f"{one.name} ({one.metrics['model']})" for one in (a, b)), "Δ", "95 %", "p"):
        table.add_column(title, justify="right" if title else "left")
    for metric, figures in compared.items():
        delta = figures["difference"]
        sides = [f"{figures[side]['mean']:.4f}  {interval(figures[side])}" for side in ("first", "second")]
        spread = interval(delta, "+.4f")
        table.add_row(metric, *sides, f"{delta['mean']:+.4f}", spread, f"{delta['p']:.4f}")
    screen.print(table)


def _judged(path: Path) -> EvaluatedRun:
    """The figures of a run, if all of its stages are those of its recipe."""
    from llmrec.evaluate.files import read_run

    run, recipe = current_run(path, "evaluate")
    return read_run(run.evaluation(recipe.evaluate.split), path.resolve().name)


def reproduce(
    result: Path = typer.Argument(help="such as results/beauty-nano.json"),
    seed: int = typer.Option(None, help="one of the result's seeds; its first otherwise"),
    out: Path = typer.Option(
        None, parser=parsed_path, metavar="PATH", help="run folder; runs/RESULT-again-SEED otherwise"
    ),
    ledger: Path = LEDGER,
    tiny: bool = typer.Option(False, help="the same path at a very small size, judged on nothing but that it ends"),
    dry_run: bool = typer.Option(False, "--dry-run", help="print the recipe that would be run, and stop"),
    as_json: bool = AS_JSON,
) -> None:
    """Run a result again, and say whether its figures fall inside their intervals (exit code 0) or not (1).

    RESULT is a JSON file of scripts/experiments/seeds.py, which pins recipe, data and seed.
    """
    from llmrec.recipe import shrink
    from llmrec.recipe_file import dump
    from llmrec.results.reproduce import read_result
    from llmrec.results.reproduce import reproduce as run_again
    from llmrec.run import execute

    known = read_result(result, seed)
    recipe = shrink(known.recipe) if tiny else known.recipe
    if dry_run:
        typer.echo(dump(recipe), nl=False)
        return
    run = out or Path("runs") / f"{known.name}-{'tiny' if tiny else 'again'}-{recipe.seed}"
    console.print(named_run(known.name, run, f", seed {recipe.seed}"))
    with stages() as progress:
        if tiny:
            execute.run(recipe, run, "evaluate", progress)
        compared = {} if tiny else run_again(known, run, ledger, progress)
    holds = all(figure.holds for figure in compared.values())
    if as_json:
        figures = {metric: asdict(figure) | {"holds": figure.holds} for metric, figure in compared.items()}
        say({"run": str(run), **({"tiny": True} if tiny else {"holds": holds, "figures": figures})})
    elif tiny:
        screen.print("The path works; tiny figures are no figures.")
    else:
        _show_reproduced(known, compared)
    if not holds:
        raise typer.Exit(1)


def _show_reproduced(known: RecordedResult, compared: dict[str, Reproduced]) -> None:
    from llmrec.provenance import versions

    table = Table(box=box.SIMPLE, caption="95 % intervals over users")
    for title in ("", "result", "interval", "now", ""):
        table.add_column(title, justify="right" if title else "left")
    for metric, one in compared.items():
        verdict = "the same" if one.now == one.was else "inside" if one.holds else "OUTSIDE"
        table.add_row(metric, f"{one.was:.4f}", interval(asdict(one)), f"{one.now:.4f}", verdict)
    screen.print(table)
    here = versions()
    other = [f"{name} {was}, here {here.get(name)}" for name, was in known.versions.items() if here.get(name) != was]
    if other:
        screen.print(f"Versions that differ: {'; '.join(other)}")


def report(run: Path = RUN, as_json: bool = AS_JSON) -> None:
    """Write a run's report.html again."""
    from llmrec.report import write_report
    from llmrec.run.layout import RunFolder

    path = write_report(RunFolder(run))
    say({"report": str(path)}) if as_json else screen.print(str(path))
