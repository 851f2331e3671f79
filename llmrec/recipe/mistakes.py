"""What is wrong in a recipe, in words: file, line, key, the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from llmrec.recipe import Recipe
from llmrec.recipe.collaborative import SPECS
from llmrec.recipe.stages import METHODS, STAGES
from llmrec.recipe.text import compose, shown

MOST = 20  # mistakes that are listed; the others are counted


def explain(error: ValidationError, text: str, path: Path) -> str:
    """The mistakes that pydantic found in a recipe, a line each, at most `MOST`.

    Args:
        text: of the recipe, without overrides.
        path: where it is from.
    """
    problems, tree = error.errors(include_url=False), compose(text)
    lines = [_mistake(problem, tree, path) for problem in problems[:MOST]]
    if len(problems) > MOST:
        lines.append(f"… and {len(problems) - MOST} more mistakes.")
    return "\n".join(lines)


def _mistake(problem: Any, tree: Any, path: Path) -> str:
    path_of = [key for key in problem["loc"] if not _is_union_branch(key)]
    keys = _as_written(path_of)
    line = _line_of(tree, keys)
    where = f"{path.name}, line {line}" if line else f"{path.name} or an override"
    name = shown(".".join(map(str, keys))) if keys else "the recipe"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{name}'.{_nearest(path_of)}"
    if problem["type"] == "union_tag_invalid":
        stage = len(keys) == 2 and keys[0] == "train"
        what, known = (".method", METHODS) if stage else ("", tuple(SPECS))
        return f"{where}: {name}{what}: {_unknown(str(problem['ctx']['tag']), known)}"
    what = shown(problem["msg"].removeprefix("Value error, "), 500)
    return f"{where}: {name}: {what}{_given(problem.get('input'))}.{_hint(problem)}"


def _given(value: Any) -> str:
    if not isinstance(value, str | int | float | bool):
        return ""
    if isinstance(value, int) and value.bit_length() > 200:
        return f" (given: a number of about {round(value.bit_length() * 0.30103)} digits)"
    return f" (given: {shown(repr(value))})"


def _is_union_branch(key: Any) -> bool:
    return isinstance(key, str) and (key.startswith("function-") or key == "[key]")


def _as_written(keys: list[Any]) -> list[Any]:
    """Keys as a recipe has them: pydantic names the kind of a stage behind its number."""
    return keys[:2] + keys[3:] if keys[:1] == ["train"] and keys[2:3] and keys[2] in STAGES else keys


def _unknown(given: str, known: Iterable[str]) -> str:
    near = _near(given, known, 0.4)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"there is no '{shown(given)}'; there are: {', '.join(known)}.{hint}"


def _near(word: str, known: Iterable[str], cutoff: float) -> str | None:
    """The known word nearest to another; None where none is near. Time grows with the square of their length."""
    return next(iter(difflib.get_close_matches(word, known, 1, cutoff) if len(word) <= 60 else []), None)


def _hint(problem: Any) -> str:
    given = problem.get("input")
    expected = problem.get("ctx", {}).get("expected")
    if expected and isinstance(given, str):
        near = _near(given, [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")], 0.4)
        return f" Did you mean '{near}'?" if near else ""
    if problem["type"] == "float_parsing":
        return " Write numbers such as 3.0e-4: YAML reads 3e-4 as text."
    return ""


def _nearest(keys: list[Any]) -> str:
    """The known key nearest to an unknown one, looked for at its own place first and then everywhere."""
    here: Any = Recipe
    for key in keys[:-1]:
        here = _part_below(here, key)
    siblings = [field.alias or name for name, field in here.model_fields.items()] if here is not None else []
    near = _near(str(keys[-1]), siblings, 0.5)
    if near:
        return f" Did you mean '{'.'.join(map(str, _as_written([*keys[:-1], near])))}'?"
    return f" Known there: {', '.join(siblings)}." if siblings else ""


def _part_below(part: Any, key: Any) -> Any:
    """The kind of part that a key leads to; None where there is none. Pydantic puts kinds of a union among the keys."""
    if isinstance(key, int) or part is None:
        return part
    if key in STAGES or key in SPECS:
        return STAGES.get(key) or SPECS[key]
    annotation = part.model_fields[key].annotation if key in part.model_fields else None
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    below = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
    return below or (part if annotation else None)


def _line_of(node: Any, keys: list[Any]) -> int | None:
    """The line (from 1) where a key stands in a tree of YAML, or of the deepest of its parents that is there."""
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
