"""The shape of the package in figures, kept in docs/architecture.md.

python scripts/house.py         prints them, with what is counted, and writes the table into docs/architecture.md
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- written by scripts/house.py -->", "<!-- end -->"
LAYOUT = "run/layout.py"  # the module that may spell paths below a run
# Names of what lies directly in a run folder.
PLACES = re.compile(
    r"(data|items|catalogues?|collaborative|tasks|logs|recipe\.yaml|report\.html|\.lock|\.work|(train|evaluate)-.*|eval)"
)
JOINS = {"Path", "joinpath", "glob", "rglob"}  # functions that make paths of names
ELSEWHERE = {"cache_folder"}  # functions that give a folder which is no run: what is joined to it is not counted
Trees = dict[str, ast.Module]


class Figure(NamedTuple):
    """One line of the table.

    Attributes:
        name: what is counted.
        bound: the most that it may be.
        now: what it is.
        found: where, one line each; empty for sizes.
    """

    name: str
    bound: int
    now: int
    found: list[str]


def trees(package: Path) -> Trees:
    """Path below the package → its syntax tree, of all modules."""
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }


def recipe_takers(modules: Trees) -> list[str]:
    """Functions, and methods, with a parameter whose type names `Recipe`."""
    found = []
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                types = [one.annotation for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                if any("Recipe" in re.findall(r"\w+", ast.unparse(kind)) for kind in types if kind):
                    found.append(f"{path}:{node.lineno} {node.name}")
    return found


def layout_spellers(modules: Trees) -> list[str]:
    """Modules, but for the layout's own, that make a path of the name of something in a run folder."""
    found: dict[str, str] = {}
    for path, tree in modules.items():
        for node in ast.walk(tree):
            for text in _joined(node) if path != LAYOUT else ():
                if PLACES.fullmatch(text.split("/")[0]):
                    found.setdefault(path, f"{path}:{node.lineno} {text}")  # type: ignore[attr-defined]
    return list(found.values())


def _joined(node: ast.AST) -> Iterator[str]:
    """Texts that an expression makes a path of, but for paths in `ELSEWHERE`; what a format string puts in is `{}`."""
    parts: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = [] if _called(node.left) in ELSEWHERE else [node.right]
    elif isinstance(node, ast.Call):
        name = _called(node)
        parts = {"Path": node.args[1:]}.get(name, node.args) if name in JOINS else []
    for part in parts:
        pieces = part.values if isinstance(part, ast.JoinedStr) else [part]
        texts = [str(piece.value) if isinstance(piece, ast.Constant) else "{}" for piece in pieces]
        if any(isinstance(piece, ast.Constant) for piece in pieces):
            yield "".join(texts)


def _called(node: ast.AST) -> str:
    """The last name of the function that an expression calls; "" for what is no call."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def cycles(modules: Trees, package: str) -> list[str]:
    """Groups of modules that import one another, wherever in them; imports for type checkers alone are not counted.

    The package's own `__init__` is left out: it opens what stands above everything, and only when it is called.
    """
    names = {_dotted(path, package): tree for path, tree in modules.items() if path != "__init__.py"}
    reached = {name: imports(tree, set(names)) & names.keys() - {name} for name, tree in names.items()}
    while any(_grow(reached, others) for others in reached.values()):
        pass
    groups = {frozenset({name, *(one for one in others if name in reached[one])}) for name, others in reached.items()}
    return sorted(" ".join(sorted(group)) for group in groups if len(group) > 1)


def _grow(reached: dict[str, set[str]], others: set[str]) -> bool:
    """Add what is reached through those that are reached; whether there was anything to add."""
    before = len(others)
    others |= {one for other in list(others) for one in reached[other]}
    return len(others) > before


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """Full names of the modules that a module imports; of a package and a module in it, the latter alone.

    Args:
        tree: of the module.
        known: the modules that there are; other names that are imported are of the module that they come from.
    """
    found: set[str] = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & known) | ({node.module} if whole - known else set())
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            nodes += ast.iter_child_nodes(node)
    return found


def _dotted(path: str, package: str) -> str:
    return f"{package}.{path.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")


def figures(package: Path) -> list[Figure]:
    """All figures of a package."""
    modules = trees(package)
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py"))
    takers, spellers, groups = recipe_takers(modules), layout_spellers(modules), cycles(modules, package.name)
    return [
        Figure("functions that take a whole `Recipe`", 8, len(takers), takers),
        Figure(f"modules outside `{LAYOUT}` that spell paths of a run", 0, len(spellers), spellers),
        Figure("groups of modules that import one another", 0, len(groups), groups),
        Figure("lines of the package", 27_000, lines, []),
        Figure("files of the package", 220, len(modules), []),
    ]


def table(found: list[Figure]) -> str:
    """The figures as Markdown."""
    rows = [f"| {one.name} | {one.bound:,} | {one.now:,} |" for one in found]
    return "\n".join(["| counted | at most | now |", "|---|---|---|", *rows])


def write(page: Path, found: list[Figure]) -> None:
    """Put the table between the two marks of a page.

    Raises:
        SystemExit: the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[1]:
        raise SystemExit(f"{page} needs a line {BEGIN} and a line {END} behind it, for the table between them.")
    before, behind = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{behind.split(END, 1)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "llmrec")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "architecture.md")
    options = parser.parse_args()
    found = figures(options.package)
    for one in found:
        print(f"{one.now:>7,} {one.name} (at most {one.bound:,})")
        print("".join(f"          {line}\n" for line in one.found), end="")
    write(options.page, found)


if __name__ == "__main__":
    main()
