"""The text of a recipe: YAML as plain values, bounded in size and depth; an error names the line."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from llmrec.errors import RecipeError

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
