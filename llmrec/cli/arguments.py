"""Arguments that several commands take, and the runs and paths that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.errors import RunError

if TYPE_CHECKING:
    from llmrec.recipe import Recipe
    from llmrec.run.layout import RunFolder


def parsed_path(text: str) -> Path:
    """The path of an option; a home (~) that a shell left as it is, as in --out=~/runs, is put in.

    Raises:
        RunError: the text is blank, which pathlib would take for the current folder; or it names no home.
    """
    if not text.strip():
        raise RunError("a path is blank. Name a folder or a file, such as --out runs/mine")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        raise RunError(f"{text}: {error} Write ./{text} for a folder of that name.") from None


RUN = typer.Argument(help="a run folder")
AS_JSON = typer.Option(False, "--json", help="print JSON")
RECIPE = typer.Argument(help="path of a recipe, or the name of a shipped one such as `quickstart`")
OVERRIDES = typer.Argument(None, help="changes such as `train.0.epochs=2`", metavar="[KEY=VALUE]...")
TINY = typer.Option(False, help="the same path at a very small size")
RUN_OUT = typer.Option(None, parser=parsed_path, metavar="PATH", help="run folder; runs/RECIPE otherwise")
LEDGER = typer.Option("results/ledger.jsonl", help="the ledger, where a look at a shut test part is written down")


def default_run(recipe: Path, tiny: bool) -> Path:
    """The run folder of a recipe where none is named."""
    return Path("runs") / (recipe.stem + ("-tiny" if tiny else ""))


def current_run(path: Path, until: str) -> tuple[RunFolder, Recipe]:
    """A run folder and its recipe; all stages up to one of the kind `until` must be those of the recipe.

    Raises:
        RunError: it is no run folder, a stage is missing, or one was made from another recipe or was changed.
    """
    from llmrec.run.layout import RunFolder, recipe_of
    from llmrec.run.plan import plan, up_to
    from llmrec.run.stage import require_current

    run, recipe = RunFolder(path), recipe_of(path)
    require_current(run, up_to(plan(recipe), until), recipe.seed)
    return run, recipe
