"""Public names of the package with the first sentence of each docstring, to be read from top to bottom.

python scripts/public_names.py [FOLDER …]     modules, classes, methods and functions below folders (llmrec otherwise)
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def first_sentence(node: Definition) -> str:
    """The first paragraph's first sentence of a docstring, on one line; "" where there is no docstring."""
    paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".") + "." if paragraph else ""


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions of a module, or the methods of a class, whose names have no leading underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def lines(path: Path) -> Iterator[str]:
    """The module, then its public names; methods are indented further."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield f"{path.relative_to(ROOT)}: {first_sentence(tree)}"
    for node in public(tree):
        yield f"    {node.name}: {first_sentence(node)}"
        if isinstance(node, ast.ClassDef):
            yield from (f"        .{method.name}: {first_sentence(method)}" for method in public(node))


def main() -> None:
    """Print the names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="*", type=Path, default=[ROOT / "llmrec"])
    for folder in parser.parse_args().folder:
        for path in sorted(folder.resolve().rglob("*.py")):
            print("\n".join(lines(path)), end="\n\n")


if __name__ == "__main__":
    main()
