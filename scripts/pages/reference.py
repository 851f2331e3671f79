"""Write docs/cli.md and docs/recipes.md: every command with its options, every key of a recipe with its default.

python scripts/pages/reference.py            writes both
python scripts/pages/reference.py --check    writes nothing; exit code 1 if one is not as it would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from llmrec.cli.main import app
from llmrec.recipe import Recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"
Schema = dict[str, Any]


def cli_page() -> str:
    """Every command: what it does, its arguments and its options."""
    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Written by `python scripts/pages/reference.py` from the help of the commands, which `--help` prints, too.",
        "Exit codes: 0 done; 1 done, and the answer is no; 2 an error that says what, where and what to type.",
        "",
    ]
    for name, command in commands(root, "llmrec"):
        lines += [f"## {name}", "", *[line.strip() for line in (command.help or "").strip().splitlines()], ""]
        lines += table(("argument or option", "default", "meaning"), map(option_row, command.params))
    return "\n".join(lines)


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of all commands below one, depth first."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, child in command.commands.items():
        yield from commands(child, f"{name} {word}")


def option_row(option: Any) -> tuple[str, str, str]:
    """A line of the table: how an option is typed, its default, and what it means."""
    is_option = option.param_type_name == "option"
    typed = ", ".join(option.opts) if is_option else str(option.name).upper()
    value = option.default
    shown = "" if value in (None, False, (), [], "") or callable(value) else f"`{value}`"
    return f"`{typed}`", shown if is_option else "needed" if option.required else "", option.help or ""


def recipe_page() -> str:
    """Every key of a recipe, in one table for each part of it."""
    schema = Recipe.model_json_schema()
    lines = [
        "# Keys of a recipe",
        "",
        "Written by `python scripts/pages/reference.py` from the schema that checks recipes; `llmrec recipe-schema`",
        "prints it for an editor. On the command line a key is typed with dots: `llmrec run x.yaml train.0.epochs=3`.",
        "",
    ]
    waiting: list[tuple[str, Schema]] = [("", schema)]
    written: set[str] = set()
    while waiting:
        path, part = waiting.pop(0)
        title = part.get("title", "")
        if title in written or "properties" not in part:
            continue
        written.add(title)
        lines += [f"## {path or 'the recipe'}", "", part.get("description", ""), ""]
        rows = []
        for key, value in part["properties"].items():
            inner = list(parts_of(value, schema["$defs"]))
            below = f"{path.split(':')[0]}.{key}"
            waiting += [(below + (f": {own}" if own else ""), child) for own, child in inner]
            default = json.dumps(value["default"]) if "default" in value else "needed"
            shown = "see below" if inner and len(default) > 40 else f"`{default}`"
            rows.append((f"`{key}`", f"`{type_of(value, schema['$defs'])}`", shown, value.get("description", "")))
        lines += table(("key", "type", "default", "meaning"), rows)
    return "\n".join(line.replace("## .", "## ") for line in lines)


def parts_of(value: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """(what tells it from others, schema) of the parts that a key may hold."""
    items = [value["items"]] if isinstance(value.get("items"), dict) else []
    for alternative in [*value.get("anyOf", []), *value.get("oneOf", []), *items]:
        yield from parts_of(alternative, definitions)
    part = definitions[value["$ref"].rsplit("/", 1)[-1]] if "$ref" in value else {}
    if "properties" not in part:
        if part:
            yield from parts_of(part, definitions)
        yield from value.get("properties", {}).items()  # {name: {parameter: value}}
        return
    method = part["properties"].get("method", {})
    names = [method["const"]] if "const" in method else method.get("enum", [])
    yield " | ".join(names) if len(names) < 5 else "", part


def type_of(value: Schema, definitions: Schema) -> str:
    """A JSON schema's type in a few words."""
    if "$ref" in value:
        part = definitions[value["$ref"].rsplit("/", 1)[-1]]
        return "part" if "properties" in part else type_of(part, definitions)
    if "const" in value:
        return str(value["const"])
    if "enum" in value:
        return " | ".join(map(str, value["enum"]))
    if alternatives := value.get("anyOf") or value.get("oneOf"):
        return " | ".join(dict.fromkeys(type_of(one, definitions) for one in alternatives))
    if value.get("type") == "array":
        return f"[{type_of(value.get('items', {}), definitions)}]"
    if value.get("type") == "object":
        return "part" if "properties" in value else "{key: value}"
    return {"null": "none", None: "any"}.get(value.get("type"), str(value.get("type")))


def table(head: tuple[str, ...], rows: Any) -> list[str]:
    """A Markdown table, and an empty line."""
    found = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if not found:
        return []
    return [*(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *found)), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    stale = []
    for name, text in (("cli.md", cli_page()), ("recipes.md", recipe_page())):
        path = DOCS / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"not up to date: {', '.join(stale)}. Type: python scripts/pages/reference.py")


if __name__ == "__main__":
    main()
