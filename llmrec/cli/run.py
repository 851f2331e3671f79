"""Run a recipe, stage by stage; a second run skips what is made already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.cli.paths import named
from llmrec.cli.screen import console, metrics_table, named_run, say, screen, show_example, stages

if TYPE_CHECKING:
    from llmrec.recipe import Recipe


def command(
    recipe: str = typer.Argument(help="path of a recipe, or the name of a shipped one such as `quickstart`"),
    overrides: list[str] = typer.Argument(None, help="changes such as `train.0.epochs=2`", metavar="[KEY=VALUE]..."),
    tiny: bool = typer.Option(False, help="the same path at a very small size"),
    until: str = typer.Option("report", help="last stage: data, items, catalogue, tasks, train, evaluate or report"),
    out: Path = typer.Option(None, parser=named, metavar="PATH", help="run folder; runs/RECIPE otherwise"),
    dry_run: bool = typer.Option(False, "--dry-run", help="print the recipe with its defaults, and stop"),
    as_json: bool = typer.Option(False, "--json", help="print the result as JSON"),
) -> None:
    from llmrec import pipeline, shipped
    from llmrec.errors import RecipeError
    from llmrec.evaluate.files import read_metrics
    from llmrec.recipe_file import dump, load

    path = shipped.recipe(recipe)
    plan = load(path, overrides or [], tiny)
    if until not in pipeline.STAGES:
        raise RecipeError(f"--until {until} is not a stage. Stages: {', '.join(pipeline.STAGES)}")
    if dry_run:
        typer.echo(dump(plan), nl=False)
        return
    run = out or Path("runs") / (path.stem + ("-tiny" if tiny else ""))
    pipeline.check_folder(plan, run)
    console.print(named_run(path.stem, run))
    _warn(plan, run)
    with stages() as tell:
        pipeline.run(plan, run, until, tell)
    if pipeline.STAGES.index(until) < pipeline.STAGES.index("evaluate"):
        say({"run": str(run), "until": until}) if as_json else console.print(f"Done until {until}: {run}")
        if until == "catalogue" and not as_json:
            _codes(run)
        return
    folder = pipeline.trained_folder(run) / "eval"
    result = read_metrics(folder)
    if as_json:
        say({"run": str(run), **result})
        return
    _codes(run)
    screen.print(metrics_table(result))
    show_example(folder)
    if until == "report":
        screen.print(f"\nThe whole report: {run / 'report.html'}", highlight=False)


def _warn(plan: Recipe, run: Path) -> None:
    """Say that a trained model will go; that it is there only until then is nothing to find out afterwards."""
    from llmrec.errors import RunError
    from llmrec.run_files import trained_folders
    from llmrec.stale import refuse_stale

    try:
        if trained_folders(run):
            refuse_stale(plan, run)
    except RunError:
        console.print(
            f"{run} holds a model of another recipe, seed or data. It stays until the one that is trained now takes "
            "its place; to keep it, stop (Ctrl-C) and write elsewhere: --out DIR",
            style="yellow", highlight=False,
        )  # fmt: skip


def _codes(run: Path) -> None:
    """What the health of codes is, in words."""
    from llmrec.checked import read_checked
    from llmrec.indexing.health import Health

    for line in read_checked(run / "catalogue" / "health.json", Health).get("verdict", []):
        screen.print(f"Codes: {line}", highlight=False, markup=False)
