"""Paths that are typed: of an option, and of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.errors import RunError

if TYPE_CHECKING:
    from llmrec.recipe import Recipe
    from llmrec.run.layout import RunFolder


def named(text: str) -> Path:
    """The path of an option; a home (~) that a shell left as it is, as in --out=~/runs, is put in.

    Raises:
        RunError: the text is blank, which pathlib would take for the folder that one stands in; or it names no home.
    """
    if not text.strip():
        raise RunError("a path is blank. Name a folder or a file, such as --out runs/mine")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        raise RunError(f"{text}: {error} Write ./{text} for a folder of that name.") from None


def current_run(path: Path, until: str) -> tuple[RunFolder, Recipe]:
    """A run folder and its recipe; all stages up to one of a kind must be those of the recipe.

    Args:
        path: the run folder.
        until: kind of the last stage that must be there; see `plan.Kind`.

    Raises:
        RunError: it is no run folder, a stage is missing, or one was made from another recipe or was changed.
    """
    from llmrec.run.layout import RunFolder, recipe_of
    from llmrec.run.plan import plan
    from llmrec.run.status import require_current

    run, recipe = RunFolder(path), recipe_of(path)
    specs = plan(recipe)
    last = max(place for place, spec in enumerate(specs) if spec.kind == until)
    require_current(run, specs[: last + 1], recipe.seed)
    return run, recipe
