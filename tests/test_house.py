"""The house rules: imports point down, heavy packages have doors, everything shipped loads."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("house", ROOT / "scripts" / "house.py")
assert SPEC and SPEC.loader
house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)
# A room imports only rooms of lower floors, wherever in a module the import stands.
FLOORS = (
    ("errors",),
    ("child_process", "contracts", "files", "provenance", "recipe", "seed", "trusted_urls"),
    ("resources",),
    ("checked", "metrics", "recipe_file", "text"),
    ("collaborative", "items", "model", "stage_record"),
    ("data",),
    ("indexing",),
    ("tasks",),
    ("decode",),
    ("evaluate", "train"),
    ("align", "rate"),
    ("run",),
    ("report", "results", "serve"),
    ("card", "chat"),
    ("export",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LINES = 340  # of a module
DOORS = {
    "trl": ("train/",),
    "peft": ("model/", "train/"),
    "bitsandbytes": ("model/",),
    "vllm": ("decode/vllm", "serve/", "rate/vllm"),
    "gradio": ("chat/page",),
    "rapidfuzz": ("chat/",),
    "matplotlib": ("report/",),
    "duckdb": ("data/",),
}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted((ROOT / "llmrec").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    inside = path.relative_to(ROOT / "llmrec")
    room = inside.parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the front door: `llmrec.load` opens a run, lazily
    assert room in FLOOR, f"{room} has no floor: give it one in docs/architecture.md and here"
    for name in imports(path):
        other = name.split(".")[1] if name.startswith("llmrec.") else None
        if other in FLOOR:
            assert other == room or FLOOR[other] < FLOOR[room], f"{inside} imports llmrec.{other}, no lower floor"


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checkers alone are not counted."""
    assert not house.cycles(house.trees(ROOT / "llmrec"), "llmrec")


def test_every_room_stands_on_a_floor_and_every_module_can_be_read_at_one_sitting() -> None:
    rooms = {path.relative_to(ROOT / "llmrec").parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms == FLOOR.keys()
    long = {path.name: lines for path in FILES if (lines := len(path.read_text().splitlines())) > LINES}
    assert not long, f"longer than {LINES} lines: {long}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_packages_come_in_by_their_doors(path: Path) -> None:
    inside = path.relative_to(ROOT / "llmrec").as_posix()
    for name in imports(path):
        package = name.split(".")[0]
        assert inside.startswith(DOORS.get(package, ("",))), f"{inside} imports {package}"


@pytest.mark.parametrize(
    "arguments", [["-c", "import llmrec"], ["-m", "llmrec.cli.main", "--help"]], ids=["import", "help"]
)
def test_import_and_help_load_nothing_heavy(arguments: list[str]) -> None:
    code = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    loaded = {
        line.rsplit("|", 1)[-1].strip().split(".")[0]
        for line in code.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "llmrec" in loaded
    assert not loaded & {"torch", "transformers", "duckdb", "pyarrow", "numpy", "faiss", "matplotlib", "pandas"}


def test_every_recipe_loads_and_opens_with_its_own_command() -> None:
    from llmrec.recipe_file import load

    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert load(path) and load(path, tiny=True)
        assert f"llmrec run {path.stem}" in path.read_text(), f"{path.name} must say how it is run"
        assert len(path.read_text().splitlines()) <= 60


def test_every_prompt_loads_and_keeps_a_wording_for_evaluation() -> None:
    from llmrec.tasks.templates import load

    prompts = sorted((ROOT / "prompts").glob("*/*.yaml"))
    assert prompts
    for path in prompts:
        template = load(path.stem)
        assert template.task == path.stem
        assert template.held_out


def test_the_readme_names_only_commands_that_there_are() -> None:
    readme = (ROOT / "README.md").read_text()
    help_text = subprocess.run(
        [sys.executable, "-m", "llmrec.cli.main", "--help"], capture_output=True, text=True, check=True
    ).stdout
    verbs = set(re.findall(r"(?:^ {4,}(?:\.venv/bin/)?|`)llmrec ([a-z-]+)", readme, re.M))
    assert verbs
    for verb in verbs:
        assert f"│ {verb} " in help_text, f"README names `llmrec {verb}`"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z]+)`", readme)) <= targets


def test_no_machine_path_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of committed files")
    here = str(ROOT.parent) + "/"
    for name in listed.stdout.splitlines():
        text = (ROOT / name).read_text(errors="ignore") if (ROOT / name).is_file() else ""
        assert here not in text or len(here) < 6, name


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json*")), ids=lambda path: path.name)
def test_results_hold_no_path_of_the_machine_that_made_them(path: Path) -> None:
    told = re.findall(r"(?<![\w.:/<])/(?:tmp|home|root|work|Users|mnt)/\S*", path.read_text())
    assert not told, f"{path.name} tells {told[0]}: let its command name what anybody can type"
