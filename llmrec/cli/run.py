"""Run a recipe, stage by stage; a second run skips what is made already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.cli.paths import named
from llmrec.cli.screen import console, named_run, say, screen, show_example, show_figures, stages

if TYPE_CHECKING:
    from llmrec.run.layout import RunFolder
    from llmrec.run.specs import StageSpec


def command(
    recipe: str = typer.Argument(help="path of a recipe, or the name of a shipped one such as `quickstart`"),
    overrides: list[str] = typer.Argument(None, help="changes such as `train.0.epochs=2`", metavar="[KEY=VALUE]..."),
    tiny: bool = typer.Option(False, help="the same path at a very small size"),
    until: str = typer.Option("report", help="last stage: data, items, catalogue, tasks, train, evaluate or report"),
    out: Path = typer.Option(None, parser=named, metavar="PATH", help="run folder; runs/RECIPE otherwise"),
    dry_run: bool = typer.Option(False, "--dry-run", help="print the recipe with its defaults, and stop"),
    as_json: bool = typer.Option(False, "--json", help="print the result as JSON"),
) -> None:
    from llmrec import extras, shipped
    from llmrec.errors import RecipeError
    from llmrec.evaluate.files import read_judged
    from llmrec.recipe_file import dump, load
    from llmrec.report import write_report
    from llmrec.run import execute
    from llmrec.run.layout import RunFolder
    from llmrec.run.making import UNTIL
    from llmrec.run.plan import plan

    path = shipped.recipe(recipe)
    settings = load(path, overrides or [], tiny)
    if until not in (*UNTIL, "report"):
        raise RecipeError(f"--until {until} is not a stage. Stages: {', '.join(UNTIL)}, report")
    if dry_run:
        typer.echo(dump(settings), nl=False)
        return
    if settings.launch.rank and until in ("evaluate", "report"):
        until = "train"  # machine 0 does the rest
    if until == "report":
        extras.need("report")
    run = RunFolder(out or Path("runs") / (path.stem + ("-tiny" if tiny else "")))
    execute.check_folder(run.path, settings.data, settings.read_paths)
    console.print(named_run(path.stem, run.path))
    _warn(plan(settings), settings.seed, run)
    with stages() as progress:
        execute.run(settings, run.path, "evaluate" if until == "report" else until, progress)
        if until == "report":
            progress("report", 0.0)
            write_report(run)
            progress("report", 1.0)
    if until not in ("evaluate", "report"):
        say({"run": str(run.path), "until": until}) if as_json else console.print(f"Done until {until}: {run.path}")
        if until == "catalogue" and not as_json:
            _codes(run.catalogue)
        return
    folder = run.evaluation(settings.evaluate.target)
    result = read_judged(folder)
    if as_json:
        say({"run": str(run.path), **result})
        return
    _codes(run.catalogue)
    show_figures(result)
    if "systems" in result:
        show_example(folder)
    if until == "report":
        screen.print(f"\nThe whole report: {run.report}", highlight=False)


def _warn(specs: list[StageSpec], seed: int, run: RunFolder) -> None:
    """Warn before training if the trained models in the run folder are of another recipe, and so will be replaced."""
    from llmrec.errors import RunError
    from llmrec.run.status import require_current

    try:
        if run.trained:
            last = max(place for place, spec in enumerate(specs) if spec.kind == "train")
            require_current(run, specs[: last + 1], seed)
    except RunError:
        console.print(
            f"{run.path} holds a model of another recipe, seed or data. It stays until the one that is trained now "
            "takes its place; to keep it, stop (Ctrl-C) and write elsewhere: --out DIR",
            style="yellow", highlight=False,
        )  # fmt: skip


def _codes(catalogue: Path) -> None:
    """Print the verdict on the health of the codes."""
    from llmrec.indexing.health import read_health

    for line in read_health(catalogue).get("verdict", []):
        screen.print(f"Codes: {line}", highlight=False, markup=False)
