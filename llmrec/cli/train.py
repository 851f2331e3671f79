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
    lines: bool = typer.Option(False, "--lines", hidden=True, help="tell progress and errors as lines of JSON"),
) -> None:
    from llmrec import pipeline, shipped
    from llmrec.recipe_file import load
    from llmrec.run_files import trained_folders
    from llmrec.train import together

    with _told() if lines else contextlib.nullcontext():
        path = shipped.recipe(recipe)
        plan = load(path, overrides or [], tiny)
        run = out or Path("runs") / (path.stem + ("-tiny" if tiny else ""))
        if not together.is_first():
            with _patient():
                pipeline.train(plan, run)
            return
        if lines:
            pipeline.train(plan, run, _tell)
            return
        console.print(named_run(path.stem, run))
        with stages() as tell:
            pipeline.train(plan, run, tell)
        trained = [str(folder) for folder in trained_folders(run)]
        say({"run": str(run), "trained": trained}) if as_json else console.print(f"Trained: {', '.join(trained)}")


def _tell(stage: str, done: float) -> None:
    if stage == "train":
        print(json.dumps({"done": round(done, 4)}), flush=True)


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """An error that all processes meet is told by the first: the launcher ends the others while they wait here."""
    from llmrec.errors import LlmrecError

    try:
        yield
    except LlmrecError:
        time.sleep(5)
        raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell a known error to the process that reads this one's lines."""
    from llmrec.errors import LlmrecError

    try:
        yield
    except LlmrecError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        sys.exit(2)
