"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.errors import RunError


def parsed_path(text: str) -> Path:
    """Parse the path of an option and expand ~, which a shell does not expand in --out=~/runs.

    Raises:
        RunError: the text is blank, which pathlib would read as the current folder, or the home is unknown.
    """
    if not text.strip():
        raise RunError("a path is blank. Name a folder or a file, such as --out runs/mine")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        raise RunError(f"{text}: {error} Write ./{text} for a folder of that name.") from None


RUN = typer.Argument(help="a run folder")
AS_JSON = typer.Option(False, "--json", help="print JSON")
RECIPE = typer.Argument(help="path of a recipe, or the name of a bundled one such as `quickstart`")
OVERRIDES = typer.Argument(None, help="changes to the recipe, such as `train.0.epochs=2`", metavar="[KEY=VALUE]...")
TINY = typer.Option(False, help="try all stages with a very small model and at most 200 users")
RUN_OUT = typer.Option(None, parser=parsed_path, metavar="PATH", help="run folder; default: runs/RECIPE")
LEDGER = typer.Option("results/ledger.jsonl", help="the ledger that records test evaluations")
