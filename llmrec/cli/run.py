"""`llmrec run` and `llmrec train`: run a recipe, in one process or in several."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec import resources
from llmrec.cli.arguments import OVERRIDES, RECIPE, RUN_OUT, TINY
from llmrec.cli.screen import console, named_run, say, screen, show_example, show_figures, stages
from llmrec.errors import LlmrecError, RecipeError, RunError

if TYPE_CHECKING:
    from llmrec.run.layout import RunFolder
    from llmrec.run.stage import StageSpec

AS_JSON = typer.Option(False, "--json", help="print the result as JSON")


def run(
    recipe: str = RECIPE,
    overrides: list[str] = OVERRIDES,
    tiny: bool = TINY,
    until: str = typer.Option(
        "report", help="last stage to run: data, items, catalogue, tasks, train, evaluate or report"
    ),
    out: Path = RUN_OUT,
    dry_run: bool = typer.Option(False, "--dry-run", help="print the recipe with all defaults and stop"),
    as_json: bool = AS_JSON,
) -> None:
    """Run a recipe: data, codes, training, evaluation, report. Finished stages are skipped when it is run again."""
    from llmrec.recipe_file import dump, load
    from llmrec.report import write_report
    from llmrec.run import execute
    from llmrec.run.layout import RunFolder, default_run
    from llmrec.run.plan import UNTIL, plan

    path = resources.recipe_path(recipe)
    settings = load(path, overrides or [], tiny)
    if until not in (*UNTIL, "report"):
        raise RecipeError(f"--until {until} is not a stage. Stages: {', '.join(UNTIL)}, report")
    if dry_run:
        typer.echo(dump(settings), nl=False)
        return
    if settings.launch.node_rank and until in ("evaluate", "report"):
        until = "train"  # node 0 does the rest
    if until == "report":
        resources.require_extras("report")
    folder = RunFolder(out or default_run(path, tiny))
    execute.check_folder(folder.path, settings.data, settings.read_paths)
    console.print(named_run(path.stem, folder.path))
    _warn(plan(settings), settings.seed, folder)
    with stages() as progress:
        execute.run(settings, folder.path, "evaluate" if until == "report" else until, progress)
        if until == "report":
            progress("report", 0.0)
            write_report(folder)
            progress("report", 1.0)
    if until in ("evaluate", "report"):
        _show(folder, folder.evaluation(settings.evaluate.split), as_json)
        if until == "report" and not as_json:
            screen.print(f"\nFull report: {folder.report}")
    elif as_json:
        say({"run": str(folder.path), "until": until})
    else:
        console.print(f"Done up to {until}: {folder.path}")
        if until == "catalogue":
            _show_codes(folder.catalogue)


def _warn(specs: list[StageSpec], seed: int, run: RunFolder) -> None:
    """Warn if the run folder has models of another recipe, which training will replace."""
    from llmrec.run.plan import up_to
    from llmrec.run.stage import require_current

    try:
        if run.trained:
            require_current(run, up_to(specs, "train"), seed)
    except RunError:
        console.print(
            f"{run.path} has a model of another recipe, seed or data. The new model will replace it when its training "
            "is complete. To keep the old one, stop (Ctrl-C) and choose another folder: --out DIR",
            style="yellow",
        )


def _show(run: RunFolder, evaluation: Path, as_json: bool) -> None:
    from llmrec.evaluate.files import read_evaluation

    result = read_evaluation(evaluation)
    if as_json:
        say({"run": str(run.path), **result})
        return
    _show_codes(run.catalogue)
    show_figures(result)
    if "systems" in result:
        show_example(evaluation)


def _show_codes(catalogue: Path) -> None:
    """Print the summary of the quality of item codes."""
    from llmrec.indexing.health import read_health

    for line in read_health(catalogue).get("verdict", []):
        screen.print(f"Codes: {line}")


def train(
    recipe: str = RECIPE,
    overrides: list[str] = OVERRIDES,
    tiny: bool = TINY,
    out: Path = RUN_OUT,
    as_json: bool = AS_JSON,
    lines: bool = typer.Option(False, "--lines", hidden=True, help="print progress and errors as lines of JSON"),
) -> None:
    """Run the training stages of a recipe, and the stages before them that are missing.

    For several processes: `accelerate launch -m llmrec train RECIPE`.
    """
    from llmrec.recipe_file import load
    from llmrec.run import execute
    from llmrec.run.layout import RunFolder, default_run
    from llmrec.train import distributed

    with _errors_as_lines() if lines else contextlib.nullcontext():
        path = resources.recipe_path(recipe)
        settings = load(path, overrides or [], tiny)
        folder = out or default_run(path, tiny)
        if not distributed.is_main_process():
            with _delayed_errors():
                execute.train(settings, folder)
        elif lines:
            execute.train(settings, folder, _progress_as_lines)
        else:
            console.print(named_run(path.stem, folder))
            with stages() as progress:
                execute.train(settings, folder, progress)
            trained = [str(stage) for stage in RunFolder(folder).trained]
            say({"run": str(folder), "trained": trained}) if as_json else console.print(
                f"Trained: {', '.join(trained)}"
            )


def _progress_as_lines(kind: str, done: float) -> None:
    if kind == "train":
        print(json.dumps({"done": round(done, 4)}), flush=True)


@contextlib.contextmanager
def _delayed_errors() -> Iterator[None]:
    """Delay an error: the first process prints it for all, and the launcher ends the others meanwhile."""
    try:
        yield
    except LlmrecError:
        time.sleep(5)
        raise


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Print a known error as a line of JSON for the parent process."""
    try:
        yield
    except LlmrecError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        sys.exit(2)
