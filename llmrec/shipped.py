"""Where the prompts and recipes that come with llmrec are: beside the package in a clone, inside it in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

from llmrec.errors import RecipeError

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder `prompts` or `recipes`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def recipe(name: str) -> Path:
    """A recipe by path, or by the name of a shipped one.

    Raises:
        RecipeError: neither exists; names the shipped ones.
    """
    given = Path(name)
    if given.suffix in (".yaml", ".yml") and _is_file(given):
        return given
    shipped = folder("recipes") / f"{given.stem}.yaml"
    if _is_file(shipped) and given.parent in (Path(), Path("recipes")):
        return shipped
    names = ", ".join(sorted(path.stem for path in folder("recipes").glob("*.yaml")))
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    raise RecipeError(f"there is no recipe '{shown}'. Give the path of a YAML file, or one of: {names}")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # pathlib's raises where a name is too long
