"""`llmrec evaluate`, `llmrec compare`, `llmrec reproduce` and `llmrec report`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer
from rich import box
from rich.table import Table

from llmrec.cli.arguments import AS_JSON, LEDGER, RUN, parsed_path
from llmrec.cli.screen import console, interval, named_run, say, screen, show_figures, stages
from llmrec.errors import RunError

if TYPE_CHECKING:
    from llmrec.evaluate.files import EvaluatedRun
    from llmrec.results.reproduce import RecordedResult, Reproduced
    from llmrec.run.stage import Split


def evaluate(
    run: Path = RUN,
    split: str = typer.Option(None, help="test or valid; default: evaluate.split of the recipe"),
    test: bool = typer.Option(
        False, "--test", help="evaluate on the test part of a run that is evaluated on validation, and record it"
    ),
    ledger: Path = typer.Option("results/ledger.jsonl", help="with --test: the ledger that records it"),
    why: str = typer.Option("", help="with --test: the reason, for the ledger"),
    beams: int = typer.Option(None, help="another beam width than the recipe's; results are not stored"),
    engine: str = typer.Option("transformers", help="transformers or vllm"),
    as_json: bool = AS_JSON,
) -> None:
    """Evaluate a trained run and its baselines on held-out items, and print the table of metrics.

    Results are stored in the run, in one folder per split; with `--beams` or `--engine vllm` they are only printed.
    `--test` is for a run that is evaluated on validation: it adds a line to the ledger (`results/ledger.jsonl`, to be
    kept under version control) and then evaluates the test part.
    """
    if split not in (None, "test", "valid"):
        raise RunError(f"--split must be test or valid, not '{split}'.")
    if test and (split == "valid" or beams is not None or engine != "transformers"):
        raise RunError("--test evaluates with the settings of the recipe: leave out --split, --beams and --engine.")
    from llmrec.evaluate.files import read_evaluation
    from llmrec.results.ledger import evaluate_test
    from llmrec.run.execute import evaluate_run

    with stages() as progress:
        if test:
            result = read_evaluation(evaluate_test(run, ledger, why, progress))
        else:
            result = evaluate_run(run, cast("Split | None", split), beams, engine, progress)
    say(result) if as_json else show_figures(result)


def compare(
    first: Path = RUN,
    second: Path = typer.Argument(help="another run folder with the same evaluation protocol"),
    as_json: bool = AS_JSON,
) -> None:
    """Compare two runs: every metric with its interval, the paired difference and its p-value."""
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
    """Read the figures of a run whose stages are all current."""
    from llmrec.evaluate.files import read_run
    from llmrec.run.plan import open_run

    run, recipe = open_run(path, "evaluate")
    return read_run(run.evaluation(recipe.evaluate.split), path.resolve().name)


def reproduce(
    result: Path = typer.Argument(help="a JSON file of results, such as results/beauty-nano.json"),
    seed: int = typer.Option(None, help="one of the result's seeds; default: the first"),
    out: Path = typer.Option(
        None, parser=parsed_path, metavar="PATH", help="run folder; default: runs/RESULT-again-SEED"
    ),
    ledger: Path = LEDGER,
    tiny: bool = typer.Option(False, help="only try all stages, with a very small model"),
    dry_run: bool = typer.Option(False, "--dry-run", help="print the recipe and stop"),
    as_json: bool = AS_JSON,
) -> None:
    """Repeat a recorded result and check that the metrics are inside its intervals (exit code 0, otherwise 1).

    RESULT is a JSON file of scripts/experiments/seeds.py, which contains recipe, data hash and seed.
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
        screen.print("All stages work. Metrics of a tiny run mean nothing.")
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
    now = versions()
    other = [f"{name} {was}, now {now.get(name)}" for name, was in known.versions.items() if now.get(name) != was]
    if other:
        screen.print(f"Different versions: {'; '.join(other)}")


def report(run: Path = RUN, as_json: bool = AS_JSON) -> None:
    """Write the report.html of a run again."""
    from llmrec.report import write_report
    from llmrec.run.layout import RunFolder

    path = write_report(RunFolder(run))
    say({"report": str(path)}) if as_json else screen.print(str(path))
