"""Scripts are outside the product and can be typed as they say: in their docstrings, in docs and in results."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from llmrec.errors import DataError
from llmrec.files import read_json
from shared import alone, command_line, ratio, take_turns

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("speed", "experiments", "pages")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / "scripts" / folder).glob("*.py"))]
SCRIPTS = [path for path in FILES if '__name__ == "__main__"' in path.read_text()]
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").glob("*.yaml"), *FILES]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_a_script_says_how_it_is_run_and_what_it_writes(path: Path) -> None:
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python {name(path)}" in told
    assert re.search(r"results/[\w*-]+|docs/", told), "its docstring names no file of results/ or docs/"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_script_can_be_imported_and_its_name_is_its_own(path: Path) -> None:
    assert Path(importlib.import_module(path.stem).__file__ or "") == path


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.name)
def test_the_command_of_a_result_calls_a_script_that_there_is(path: Path) -> None:
    python, script, *_ = read_json(path)["command"].split()
    assert python == "python" and ROOT / script in SCRIPTS


def test_texts_name_only_scripts_that_there_are() -> None:
    named = {(path, script) for path in TEXTS for script in re.findall(r"scripts/[\w/]+\.py", path.read_text())}
    assert len(named) > 50
    assert not [(name(path), script) for path, script in named if not (ROOT / script).is_file()]


def test_llmrec_knows_no_script() -> None:
    own = {path.stem for path in FILES} | {"scripts"}
    for path in (ROOT / "llmrec").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            given = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            given += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not own & {module.split(".")[0] for module in given}, f"{name(path)} imports a script"


def test_a_known_error_of_a_script_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise DataError("no such log. Give --log FILE")

    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit) as stop:
        command_line(main)
    assert stop.value.code == 2 and capsys.readouterr().err == "DataError: no such log. Give --log FILE\n"


def test_contenders_take_turns_and_ratios_are_of_the_same_round() -> None:
    order: list[str] = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3 and {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_what_is_called_alone_has_a_process_of_its_own() -> None:
    import os

    assert alone(os.getpid) != os.getpid()
