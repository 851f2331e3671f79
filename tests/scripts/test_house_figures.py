"""The figures of the house count what they say, on a package that has one of each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("house", Path(__file__).parents[2] / "scripts" / "house.py")
assert SPEC and SPEC.loader
house = sys.modules["house"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)

FILES = {
    "__init__.py": "def load(): from shop.run import layout",
    "recipe.py": "class Recipe:\n    def parts(self) -> Recipe: ...\n    def seed(self, part: RecipePart): ...",
    "takers.py": "from shop.recipe import Recipe\n"
    "def one(recipe: Recipe): ...\n"
    "async def two(*, recipe: 'Recipe | None' = None) -> int: ...\n"
    "def other(made: list[int], recipe) -> Recipe: ...\n"
    "class Keeper:\n    recipe: Recipe\n    def three(self, several: list[Recipe], /): ...",
    "run/__init__.py": '"""run/data is read by `x / \'data\'`."""',
    "run/layout.py": "from pathlib import Path\nDATA = Path() / 'data'",
    "spells.py": "def f(run, n):\n    return run / f'train-{n}-sft' / 'model'",
    "globs.py": "def f(run):\n    return list(run.glob('evaluate-*'))",
    "below.py": "def f(run):\n    return run.joinpath('catalogue/items.parquet')",
    "cached.py": "def f(own):\n    return own.cache_folder() / 'data' / 'x'",
    "honest.py": "def f(a, b, run, table):\n"
    "    return a / b, table['data'], run.data / 'items.parquet', Path('data'), run / 'x-data'",
    "a.py": "from shop import b",
    "b.py": "import shop.c",
    "c.py": "def late():\n    from shop.a import name",
    "typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shop.tree import Tree",
    "tree.py": "from shop import typed",
    "room/__init__.py": "from shop.room.page import write",
    "room/page.py": "from shop.room import parts",
    "room/parts.py": "",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / name).write_text(text)
    return tmp_path / "shop"


def test_functions_that_take_a_recipe_are_counted_and_no_others(package: Path) -> None:
    assert [one.split()[1] for one in house.recipe_takers(house.trees(package))] == ["one", "two", "three"]


def test_modules_that_join_names_of_a_run_are_counted_once_and_the_layout_never(package: Path) -> None:
    found = [one.split(":")[0] for one in house.layout_spellers(house.trees(package))]
    assert found == ["below.py", "globs.py", "spells.py"]


def test_modules_that_reach_themselves_are_one_group(package: Path) -> None:
    assert house.cycles(house.trees(package), "shop") == ["shop.a shop.b shop.c"]


def test_the_table_is_written_between_its_marks_again_and_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{house.BEGIN}\nold\n{house.END}\nbehind\n")
    monkeypatch.setattr("sys.argv", ["house.py", "--package", str(package), "--page", str(page)])
    house.main()
    text = page.read_text()
    lines = sum(len(one.splitlines()) for one in FILES.values())
    assert "| functions that take a whole `Recipe` | 8 | 3 |" in text
    assert f"| lines of the package | 27,000 | {lines} |\n| files of the package | 220 | {len(FILES)} |" in text
    assert text.startswith("before\n") and text.endswith("\nbehind\n") and "old" not in text
    house.main()
    assert page.read_text() == text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="needs a line"):
        house.main()
