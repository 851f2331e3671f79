"""Run the training stages of a recipe alone, and what they need where it is missing.

Several processes share it under `accelerate launch -m llmrec train RECIPE`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import typer

from llmrec.cli.paths import named
from llmrec.cli.screen import console, named_run, say, stages


def command(
    recipe: str = typer.Argument(help="path of a recipe, or the name of a shipped one such as `quickstart`"),
    overrides: list[str] = typer.Argument(None, help="changes such as `train.0.epochs=2`", metavar="[KEY=VALUE]..."),
    tiny: bool = typer.Option(False, help="the same path at a very small size"),
    out: Path = typer.Option(None, parser=named, metavar="PATH", help="run folder; runs/RECIPE otherwise"),
    as_json: bool = typer.Option(False, "--json", help="print the result as JSON"),
    lines: bool = typer.Option(False, "--lines", hidden=True, help="print progress and errors as lines of JSON"),
) -> None:
    from llmrec import shipped
    from llmrec.recipe_file import load
    from llmrec.run import execute
    from llmrec.run.layout import RunFolder
    from llmrec.train import together

    with _errors_as_lines() if lines else contextlib.nullcontext():
        path = shipped.recipe(recipe)
        settings = load(path, overrides or [], tiny)
        run = out or Path("runs") / (path.stem + ("-tiny" if tiny else ""))
        if not together.is_first():
            with _patient():
                execute.train(settings, run)
            return
        if lines:
            execute.train(settings, run, _progress_as_lines)
            return
        console.print(named_run(path.stem, run))
        with stages() as progress:
            execute.train(settings, run, progress)
        trained = [str(folder) for folder in RunFolder(run).trained]
        say({"run": str(run), "trained": trained}) if as_json else console.print(f"Trained: {', '.join(trained)}")


def _progress_as_lines(kind: str, done: float) -> None:
    if kind == "train":
        print(json.dumps({"done": round(done, 4)}), flush=True)


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Wait before an error: the first process prints what all meet, and the launcher ends the others meanwhile."""
    from llmrec.errors import LlmrecError

    try:
        yield
    except LlmrecError:
        time.sleep(5)
        raise


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Print a known error as a line of JSON, for the process that started this one."""
    from llmrec.errors import LlmrecError

    try:
        yield
    except LlmrecError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        sys.exit(2)
