"""The text of a recipe: YAML as plain values, bounded in size and depth, and its mistakes, with line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from llmrec.errors import RecipeError
from llmrec.recipe import Recipe
from llmrec.recipe.collaborative import SPECS
from llmrec.recipe.stages import METHODS, STAGES

BYTES = 1_000_000  # of a recipe; the largest that is shipped has 3,000
DEPTH = 50  # of lists and mappings in one another; a recipe needs 5
MERGED = 1_000  # keys that merges (<<) may bring into one mapping: merges of merges multiply
_REMEDY = "Mend it there: text with : # [ { & * or ! in it goes in quotes, and blanks indent, not tabs."
_TAG = "tag:yaml.org,2002:"


class Loader(yaml.SafeLoader):
    """SafeLoader with bounds; keys are always text, days stay text, and all text can be written as UTF-8."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
        first: [one for one in resolvers if one[0] != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node of the tree; refuses one that lies too deep."""
        self.depth += 1
        if self.depth > DEPTH:
            raise ConstructorError(None, None, f"more than {DEPTH} levels deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Take merged keys in; refuses more of them than any recipe has."""
        own = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > own + MERGED:
            raise ConstructorError(None, None, f"merges bring more than {MERGED} keys", node.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A dict; keys such as 1, on or null are the text that was written."""
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                key.tag = f"{_TAG}str"
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: Any) -> Any:
        """Text; refuses characters that neither a file nor a path can hold."""
        text = super().construct_scalar(node)
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
            raise ConstructorError(None, None, "a NUL or half a character (\\uD800 to \\uDFFF)", node.start_mark)
        return text

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A value; what PyYAML's constructors stumble over is an error of the text."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.removeprefix(_TAG)
            raise ConstructorError(None, None, f"{shown(str(node.value))} is no {kind}", node.start_mark) from None


def parse(text: str, name: str) -> Any:
    """The values of a YAML text.

    Args:
        text: one document.
        name: what messages call it.

    Raises:
        RecipeError: it is not valid YAML, or larger or deeper than any recipe.
    """
    if len(text) > BYTES:
        raise RecipeError(f"{name} has more than {BYTES} characters, which no recipe has. Name a recipe.")
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{name}{line} is not valid YAML: {shown(str(error.problem), 200)}. {_REMEDY}") from None
    except yaml.reader.ReaderError as error:
        line = f", line {text.count(chr(10), 0, error.position) + 1}"
        raise RecipeError(
            f"{name}{line} is not valid YAML: a character that is no text ({error.character:#x}). Delete it."
        ) from None


def compose(text: str) -> Any:
    """The tree of a YAML text that `parse` accepts, with the line of every node; None of an empty one."""
    return yaml.compose(text, Loader)


def shown(text: str, most: int = 60) -> str:
    """Text for a message: on one line, cut where it is long, control characters as their escapes."""
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


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
    siblings = list(here.model_fields) if here is not None else []
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
            entry = next(((name, value) for name, value in node.value if name.value == str(key)), None)
            if entry is None:
                return line
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line
