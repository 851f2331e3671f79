"""Read recipe files: YAML to a `Recipe`; errors name the line and the nearest valid key.

`key=value` overrides index lists by number: `train.0.epochs=2`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmrec import resources, trusted_urls
from llmrec.errors import RecipeError
from llmrec.files import hash_json
from llmrec.recipe import Recipe, shrink
from llmrec.recipe.text import BYTES, DEPTH, explain, parse, shown


def load(path: Path, overrides: tuple[str, ...] | list[str] = (), tiny: bool = False) -> Recipe:
    """Read a recipe, apply overrides, fill in defaults.

    Paths in the file are relative to the file, those in overrides to the working directory.

    Args:
        path: the YAML file.
        overrides: `key=value` texts; keys are dotted, lists are indexed by number, values are YAML.
        tiny: use a very small model and at most 200 users.

    Raises:
        RecipeError: with file, line and the nearest valid name.
    """
    recipe = read(_text(path), path, overrides)
    # Overrides of the user also hold for a tiny recipe.
    return read(dump(shrink(recipe)), path, overrides) if tiny else recipe


def read(text: str, path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Parse the text of a recipe, as `load`; `path` is for messages and relative paths."""
    values = _parse(text, path)
    _anchor_paths(values, path.parent, path)
    for override in overrides:
        trusted_urls.trust_all(_override(values, override))
    _anchor_paths(values, Path(), path)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, text, path)) from None


def dump(recipe: Recipe) -> str:
    """Return a recipe as YAML with all defaults."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def fingerprint(recipe: Recipe) -> str:
    """Return 16 hexadecimal digits that are equal for recipes with the same result, except for the seed.

    Paths, `launch`, `chat` and other `NOT_HASHED` fields do not matter.
    """
    parts = (recipe.data, recipe.items, recipe.indexing, recipe.tasks, recipe.model, *recipe.train, recipe.evaluate)
    return hash_json([part.hashed_fields() for part in parts])[:16]


def portable(recipe: Recipe) -> Recipe:
    """Return a recipe with file names instead of absolute paths."""
    values = recipe.model_dump(mode="json")
    for part, key in _PATHS:
        inner = _inner(values, part)
        if inner and isinstance(inner.get(key), str) and Path(inner[key]).is_absolute():
            inner[key] = Path(inner[key]).name
    return Recipe.model_validate(values)


def shipped_name(digest: str) -> str | None:
    """Return the name of the bundled recipe with this fingerprint, or None."""
    paths = sorted(resources.folder("recipes").glob("*.yaml"))
    return next((path.stem for path in paths if fingerprint(load(path)) == digest), None)


_PATHS = (
    (("data",), "interactions"),
    (("data",), "items"),
    (("model",), "init_from"),
    (("model",), "base"),
    (("tasks", "oracle"), "cache"),
)


def _anchor_paths(values: dict[str, Any], folder: Path, recipe: Path) -> None:
    """Make the paths in the values of a recipe absolute, in place; they are relative to `folder`."""
    for part, key in _PATHS:
        inner = _inner(values, part)
        name = inner.get(key) if inner else None
        if inner is None or not isinstance(name, str) or not name:
            continue  # empty: no path
        whole = os.path.realpath(folder / os.path.expanduser(name))  # noqa: PTH111  # leaves an unknown ~user
        if key == "base" and (name == "nano" or not os.path.isdir(whole)):  # noqa: PTH112  # pathlib's raises where a name is too long
            continue  # nano, embedded:NAME, or a name on a hub
        try:
            os.lstat(whole)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                what = f"{'.'.join(part)}.{key}: '{shown(name)}' is too long for a file name"
                raise RecipeError(f"{recipe.name}: {what}. Give the path of an existing file.") from None
        inner[key] = whole


def _inner(values: dict[str, Any], part: tuple[str, ...]) -> dict[str, Any] | None:
    """Return a nested mapping of the values of a recipe, or None."""
    for key in part:
        values = values.get(key)  # type: ignore[assignment]
        if not isinstance(values, dict):
            return None
    return values


def _text(path: Path) -> str:
    """Read the text of a recipe file; RecipeError if it cannot be read, is not UTF-8, or is too large."""
    try:
        with path.open("rb") as file:
            content = file.read(BYTES + 1)
        str(path).encode()  # the name is written to files of the run
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not valid UTF-8"
        raise RecipeError(f"the recipe {shown(str(path), 200)} cannot be read: {reason}.") from None
    if len(content) > BYTES:
        raise RecipeError(f"{path} is larger than {BYTES} bytes, so it is not a recipe.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}, line {line}: the byte {content[error.start]:#04x} is not UTF-8. Save the recipe as UTF-8."
        ) from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    values = parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must be a mapping of keys such as `seed: 42`, not a {type(values).__name__}.")
    return values


def _override(values: dict[str, Any], override: str) -> Any:
    """Set a value by its dotted key, and return it."""
    name = f"the override '{shown(override)}'"
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps) or len(steps) > DEPTH:
        what = "no '='" if not equals else "an empty key" if not all(steps) else "too many keys"
        raise RecipeError(f"{name} has {what}. Write it as key=value, such as train.0.epochs=2")
    value = parse(text, name)
    here: Any = values
    for number in range(len(steps)):
        place = _place(here, steps[: number + 1], name)
        if number + 1 == len(steps):
            here[place] = value
        elif isinstance(here, dict) and here.get(place) is None:
            here[place] = [{}] if _is_number(steps[number + 1]) else {}
        here = here[place]
    return value


def _place(here: Any, steps: list[str], name: str) -> str | int:
    """Return the key or list index of the last step."""
    step = steps[-1]
    if isinstance(here, dict):
        return step
    if not isinstance(here, list):
        raise RecipeError(f"{name}: there is nothing below '{shown('.'.join(steps[:-1]))}' to set.")
    if not _is_number(step) or int(step) >= len(here):
        raise RecipeError(f"{name}: '{shown(step)}' must be a number below {len(here)} there.")
    return int(step)


def _is_number(step: str) -> bool:
    return step.isascii() and step.isdigit() and len(step) < 10
