"""The house rules: imports point down, heavy packages have doors, everything shipped loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "errors": -1,  # the ground that everything stands on
    **dict.fromkeys(
        (
            "files",
            "checked",
            "run_files",
            "recipe",
            "recipe_file",
            "run_folder",
            "seed",
            "contracts",
            "embedded",
            "shipped",
            "extras",
            "peak",
            "git",
            "addresses",
            "supervise",
        ),
        0,
    ),
    **dict.fromkeys(("data", "metrics", "text"), 1),
    **dict.fromkeys(("items", "collaborative"), 2),
    "indexing": 3,
    "model": 4,
    "tasks": 5,
    "decode": 6,
    **dict.fromkeys(("train", "align", "evaluate"), 7),
    **dict.fromkeys(
        (
            *(
                "stage",
                "stale",
                "results",
                "ledger",
                "judging",
                "pinned",
                "reproducing",
                "pipeline",
                "launch",
                "report",
                "card",
            ),
            *("export", "serve", "chat", "rate"),
        ),
        8,
    ),
    "cli": 9,
    "__main__": 10,
}
# Rooms on one floor that may know each other: the pipeline puts the stages together.
NEIGHBOURS = {
    ("embedded", "files"),
    ("run_files", "checked"),
    ("run_folder", "files"),
    ("recipe_file", "shipped"),
    ("recipe_file", "addresses"),
    ("recipe_file", "files"),
    ("recipe_file", "recipe"),
    ("align", "train"),
    ("pipeline", "stage"),
    ("pipeline", "launch"),
    ("pipeline", "judging"),
    ("judging", "stage"),
    ("judging", "ledger"),
    *((other, "stale") for other in ("judging", "pinned")),
    ("stale", "stage"),
    *(("pinned", other) for other in ("judging", "ledger", "pipeline", "stage")),
    *(("reproducing", other) for other in ("judging", "ledger", "pipeline")),
    ("chat", "serve"),  # the page listens as the server does
    ("serve", "pipeline"),
    ("results", "stage"),
    ("pipeline", "report"),
    ("card", "report"),
    ("export", "card"),
    ("export", "pipeline"),
    ("export", "stage"),
}
DOORS = {
    "trl": ("train/",),
    "peft": ("model/", "train/"),
    "bitsandbytes": ("model/",),
    "vllm": ("decode/vllm", "serve/", "rate/on_vllm"),
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
        return  # the front door: `llmrec.load` reaches the pipeline, lazily
    assert room in FLOORS, f"{room} has no floor: give it one in docs/architecture.md and here"
    for name in imports(path):
        if not name.startswith("llmrec.") or name.split(".")[1] not in FLOORS:
            continue
        other = name.split(".")[1]
        allowed = other == room or FLOORS[other] < FLOORS[room] or (room, other) in NEIGHBOURS
        assert allowed, f"{inside} (floor {FLOORS[room]}) imports llmrec.{other} (floor {FLOORS[other]})"


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
