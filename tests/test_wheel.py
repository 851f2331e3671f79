"""What is installed is whole: the wheel holds prompts, recipes and styles, and works without the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    pytest.importorskip("hatchling", reason="the build back end is not installed here, and tests use no network")
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_prompt_recipe_and_style(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = [path for name in ("prompts", "recipes") for path in (ROOT / name).rglob("*.yaml")]
    assert shipped
    assert {f"llmrec/{path.relative_to(ROOT).as_posix()}" for path in shipped} <= inside
    assert "llmrec/report/page.css" in inside
    assert not [name for name in inside if name.startswith(("tests/", "scripts/"))]


def test_an_installed_llmrec_finds_its_recipes_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = "import llmrec, sys; print(llmrec.__file__); sys.argv = ['llmrec', 'run', 'quickstart', '--dry-run']; "
    done = subprocess.run(
        [sys.executable, "-c", code + "from llmrec.cli.main import main; main()"],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(tmp_path / "site")), done.stdout + done.stderr
    assert "source: ml-100k" in done.stdout
