"""Recipe files: YAML in, a `Recipe` out; every error names the line and the nearest right word.

`key=value` overrides reach lists by number: `train.0.epochs=2`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from llmrec import shipped
from llmrec.errors import RecipeError, RunError
from llmrec.files import hash_json
from llmrec.recipe import Recipe, shrink
from llmrec.recipe.stages import METHODS, STAGES


def load(path: Path, overrides: tuple[str, ...] | list[str] = (), tiny: bool = False) -> Recipe:
    """Read a recipe, apply overrides, fill in defaults.

    Args:
        path: the YAML file.
        overrides: `key=value` texts; keys are dotted, lists are reached by number, values are YAML.
        tiny: shrink to the same shape with a very small model and at most 200 users.

    Raises:
        RecipeError: what is wrong, with file, line and the nearest right name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    recipe = _anchor_files(read(text, path, overrides), path)
    # What somebody said themselves stays, however small the rest becomes.
    return _anchor_files(read(dump(shrink(recipe)), path, overrides), path) if tiny else recipe


def recipe_of(run: Path, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """The recipe of a run folder.

    Args:
        run: the folder.
        overrides: as of `load`.

    Raises:
        RunError: it is no run folder.
        RecipeError: as `load`.
    """
    check_run(run)
    return load(run / "recipe.yaml", overrides)


def check_run(run: Path) -> None:
    """Refuse what is no run folder.

    Raises:
        RunError: it holds no recipe.
    """
    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run} is not a run folder: it has no recipe.yaml. Make one with: llmrec run quickstart")


def read(text: str, path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """A recipe from its text, defaults and overrides taken in; "" is all defaults.

    Args:
        path: where it is from, for messages.

    Raises:
        RecipeError: as `load`.
    """
    values = _parse(text, path)
    for override in overrides:
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(error, text, path)) from None


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=110)


def fingerprint(recipe: Recipe) -> str:
    """16 hexadecimal digits that are the same for two recipes that differ in nothing but seed, launch and chat.

    Files and runs of one's own count by their names, wherever they lie.
    """
    told = without_places(recipe).model_dump(mode="json", exclude={"seed", "launch", "chat"})
    return hash_json(told)[:16]


def without_places(recipe: Recipe) -> Recipe:
    """The same recipe with the names of its files and runs alone, and not where they lie."""

    def bare(part: Any, *keys: str) -> Any:
        given = {key: getattr(part, key) for key in keys}
        return part.model_copy(update={key: value and Path(value).name for key, value in given.items()})

    parts: dict[str, Any] = {"data": bare(recipe.data, "interactions", "items"), "model": bare(recipe.model, "start")}
    if recipe.tasks.oracle:
        parts["tasks"] = recipe.tasks.model_copy(update={"oracle": bare(recipe.tasks.oracle, "cache")})
    return recipe.model_copy(update=parts)


def shipped_name(recipe: Recipe) -> str | None:
    """The name of the shipped recipe that this one is, but for its seed; None if it is none of them."""
    mine = fingerprint(recipe)
    found = (path.stem for path in sorted(shipped.folder("recipes").glob("*.yaml")) if fingerprint(load(path)) == mine)
    return next(found, None)


def _anchor_files(recipe: Recipe, path: Path) -> Recipe:
    """File names in a recipe are relative to the recipe, not to where the command is typed."""

    def absolute(name: str | None) -> str | None:
        return None if name is None else str((path.parent / Path(name).expanduser()).resolve())

    files = {"interactions": absolute(recipe.data.interactions), "items": absolute(recipe.data.items)}
    parts: dict[str, Any] = {"data": recipe.data.model_copy(update=files)}
    if recipe.tasks.oracle:
        oracle = recipe.tasks.oracle.model_copy(update={"cache": absolute(recipe.tasks.oracle.cache)})
        parts["tasks"] = recipe.tasks.model_copy(update={"oracle": oracle})
    return recipe.model_copy(update=parts)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must be a mapping of keys such as `seed: 42`, not a {type(values).__name__}.")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"the override '{override}' has no '='. Write it as key=value, such as train.0.epochs=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"the override '{override}': '{text}' is not valid YAML. Write it as in a recipe.") from None
    steps = key.strip().split(".")
    here: Any = values
    for number in range(len(steps)):
        place = _place(here, steps[: number + 1], override)
        if number + 1 == len(steps):
            here[place] = value
        elif isinstance(here, dict) and here.get(place) is None:
            here[place] = [{}] if steps[number + 1].isdigit() else {}
        here = here[place]


def _place(here: Any, steps: list[str], override: str) -> str | int:
    """The key or list position that the last of some steps means."""
    step = steps[-1]
    if isinstance(here, dict):
        return step
    if not isinstance(here, list):
        raise RecipeError(f"the override '{override}': there is nothing below '{'.'.join(steps[:-1])}' to set.")
    if not step.isdigit() or int(step) >= len(here):
        raise RecipeError(f"the override '{override}': '{step}' must be a number below {len(here)} there.")
    return int(step)


def _explain(error: ValidationError, text: str, path: Path) -> str:
    lines = []
    for problem in error.errors():
        path_of = [key for key in problem["loc"] if not _is_union_branch(key)]
        keys = _as_written(path_of)
        line = _line_of(text, keys)
        where = f"{path.name}, line {line}" if line else f"{path.name} or an override"
        name = ".".join(map(str, keys)) or "the recipe"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key '{name}'.{_nearest(path_of)}")
        elif problem["type"] == "union_tag_invalid":
            lines.append(f"{where}: {name}.{_no_method(problem['ctx']['tag'])}")
        else:
            given = problem.get("input")
            shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
            lines.append(f"{where}: {name}: {problem['msg'].removeprefix('Value error, ')}{shown}.{_hint(problem)}")
    return "\n".join(lines)


def _is_union_branch(key: Any) -> bool:
    return isinstance(key, str) and (key.startswith("function-") or key == "[key]")


def _as_written(keys: list[Any]) -> list[Any]:
    """Keys as a recipe has them: pydantic names the kind of a stage behind its number."""
    return keys[:2] + keys[3:] if keys[:1] == ["train"] and keys[2:3] and keys[2] in STAGES else keys


def _no_method(given: str) -> str:
    near = difflib.get_close_matches(given, METHODS, 1, 0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"method: there is no '{given}'; there are: {', '.join(METHODS)}.{hint}"


def _hint(problem: Any) -> str:
    given = problem.get("input")
    expected = problem.get("ctx", {}).get("expected")
    if expected and isinstance(given, str):
        near = difflib.get_close_matches(
            given, [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")], 1, 0.4
        )
        return f" Did you mean '{near[0]}'?" if near else ""
    if problem["type"] == "float_parsing":
        return " Write numbers such as 3.0e-4: YAML reads 3e-4 as text."
    return ""


def _nearest(keys: list[Any]) -> str:
    """The known key nearest to an unknown one, looked for at its own place first and then everywhere."""
    here: Any = Recipe
    for key in keys[:-1]:
        here = _part_below(here, key)
    siblings = [field.alias or name for name, field in here.model_fields.items()] if here is not None else []
    near = difflib.get_close_matches(str(keys[-1]), siblings, 1, 0.5)
    if near:
        return f" Did you mean '{'.'.join(map(str, _as_written([*keys[:-1], near[0]])))}'?"
    return f" Known there: {', '.join(siblings)}." if siblings else ""


def _part_below(part: Any, key: Any) -> Any:
    if part is None:
        return None
    if isinstance(key, int):
        return part
    if key in STAGES:
        return STAGES[key]
    annotation = part.model_fields[key].annotation if key in part.model_fields else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return part if key == "train" else None


def _line_of(text: str, keys: list[Any]) -> int | None:
    """The line (from 1) where a key stands, or of the deepest of its parents that the file has."""
    try:
        node = yaml.compose(text)
    except yaml.YAMLError:
        return None
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == str(key)]
            if not found:
                return line
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line
