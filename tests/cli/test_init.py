"""A new user's first quarter of an hour: three unlike sets, from files to recommendations, nothing asked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_sets
import pytest
import yaml

from llmrec.cli.main import main
from llmrec.collaborative import refuse_too_large
from llmrec.contracts import Sizes
from llmrec.data import recipe_generator
from llmrec.data.recipe_generator import DatasetSize
from llmrec.recipe import Data, Recipe
from llmrec.recipe_file import read

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def llmrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """The command line, in this process and in a folder of its own: exit code, output, messages."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", own_sets.SETS)
def test_from_files_to_recommendations(name: str, llmrec: Call, tmp_path: Path) -> None:
    files = [path.name for path in own_sets.SETS[name](tmp_path)]
    code, out, err = llmrec("init", *files, "--yes")
    assert code == 0, err
    assert "llmrec run recipe.yaml --tiny" in out
    recipe = (tmp_path / "recipe.yaml").read_text()
    assert 20 <= len(recipe.splitlines()) <= 40
    assert str(tmp_path) not in recipe, "files are named from the recipe, so that the folder can be moved"

    code, out, _ = llmrec("data", "check", *files)
    assert code == (0 if name == "small" else 1)
    assert ("No problems found." in out) == (name == "small")

    code, _, err = llmrec("run", "recipe.yaml", "items.encoder=hashing", "--tiny", "--out", "run")
    assert code == 0, err
    code, out, err = llmrec("data", "show", "run", "--json")
    assert code == 0, err
    user = "00012" if name == "shop" else "u-1" if name == "log" else "7"
    code, out, err = llmrec("recommend", "run", "--user", user, "-k", "5", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert len({row["item_id"] for row in found}) == 5
    real = {"shop": "A-", "log": "1234567000", "small": ""}[name]
    assert all(row["item_id"].startswith(real) or row["item_id"] == "99" for row in found)
    assert all((row["title"] and row["title"] != row["item_id"]) or row["item_id"] == "99" for row in found)


def test_a_recipe_that_is_there_is_not_written_over(llmrec: Call, tmp_path: Path) -> None:
    files = [path.name for path in own_sets.small(tmp_path)]
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    code, _, err = llmrec("init", *files, "--yes")
    assert code == 2
    assert "--force" in err
    assert (tmp_path / "recipe.yaml").read_text() == "seed: 1\n"
    assert llmrec("init", *files, "--yes", "--out", "other.yaml")[0] == 0
    assert llmrec("init", *files, "--yes", "--force")[0] == 0
    assert (tmp_path / "recipe.yaml").read_text() == (tmp_path / "other.yaml").read_text().replace(
        "other.yaml", "recipe.yaml"
    )


def test_items_derived_from_a_log_are_not_written_over(llmrec: Call, tmp_path: Path) -> None:
    own_sets.shop(tmp_path)
    (tmp_path / "orders-items.csv").write_text("mine")
    code, _, err = llmrec("init", "orders.csv", "--yes")
    assert code == 2
    assert "orders-items.csv exists" in err
    assert (tmp_path / "orders-items.csv").read_text() == "mine"
    assert not (tmp_path / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "out", ["orders.csv", "./orders.csv", "link.yaml", "folder", "pipe", "file/x.yaml", "x" * 300, ""]
)
def test_force_writes_over_a_recipe_and_over_nothing_else(out: str, llmrec: Call, tmp_path: Path) -> None:
    own_sets.shop(tmp_path)
    (tmp_path / "link.yaml").symlink_to("orders.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, _, err = llmrec("init", "orders.csv", "--yes", "--force", "--out", out)
    assert code == 2 and err.count("Error: ") == 1 and "Traceback" not in err, err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert (tmp_path / "link.yaml").is_symlink()


def test_a_recipe_and_its_items_go_into_a_new_folder(llmrec: Call, tmp_path: Path) -> None:
    own_sets.shop(tmp_path)
    code, _, err = llmrec("init", "orders.csv", "--yes", "--out", "new/deep/recipe.yaml")
    assert code == 0, err
    assert (tmp_path / "new" / "deep" / "orders-items.csv").is_file()


def test_settings_suit_the_size(llmrec: Call, tmp_path: Path) -> None:
    llmrec("init", *(path.name for path in own_sets.small(tmp_path)), "--yes")
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert recipe["indexing"]["width"] <= 40 / 4
    assert recipe["tasks"]["history"] == 10
    assert recipe["data"]["columns"]["timestamp"] is None
    assert recipe["evaluate"]["beams"] <= 40


def recipe_for(users: int = 1000, items: int = 500, events: int = 10_000) -> Recipe:
    """The recipe that `llmrec init` writes for data of a size."""
    size = DatasetSize(users, items, events, 0, np.full(users, events // users), 0.0, 0, [])
    data = Data(source="files", interactions="/data/log.csv", items="/data/items.csv")
    target = Path("/data/mine.yaml")
    return read(recipe_generator.recipe_text(data, ["title"], size, target, "a test"), target)


@pytest.mark.parametrize("items", [20, 500, 5000, 30_000, 200_000, 1_000_000])
@pytest.mark.parametrize("events", [10_000, 1_000_000])
def test_the_models_of_a_written_recipe_fit_into_16_gib_whatever_the_size(items: int, events: int) -> None:
    recipe = recipe_for(items=items, events=events)
    sizes = Sizes(1000, items, events)
    teachers = [teacher for stage in recipe.train if (teacher := stage.needed_teacher)]
    refuse_too_large([*teachers, *recipe.evaluate.baselines], sizes, available=16 << 30)
    assert {"popularity", "markov"} <= {model.kind for model in recipe.evaluate.baselines}


def test_the_more_events_the_fewer_epochs_and_a_teacher_helps_in_long_trainings_alone() -> None:
    stages = [recipe_for(events=events).train[0] for events in (5_000, 50_000, 200_000, 1_000_000, 10_000_000)]
    epochs, helped = [stage.epochs for stage in stages], [stage.teacher_replace_prob > 0 for stage in stages]
    assert epochs == sorted(epochs, reverse=True) and epochs[0] > epochs[-1] >= 1
    assert helped == sorted(helped, reverse=True) and helped[0] and not helped[-1]


def test_check_and_show_take_a_recipe_and_speak_json(llmrec: Call, tmp_path: Path) -> None:
    llmrec("init", *(path.name for path in own_sets.log(tmp_path)), "--yes")
    code, out, _ = llmrec("data", "check", "recipe.yaml", "--json")
    assert code == 1
    assert {problem["kind"] for problem in json.loads(out)["problems"]} == {"missing", "malformed", "unknown"}
    code, out, _ = llmrec("data", "show", "recipe.yaml", "--json")
    shown = json.loads(out)
    assert (code, shown["users"], shown["items"]) == (0, 50, 81)
    assert shown["items with text"].startswith("80 of 81")


def test_the_sources_are_listed(llmrec: Call) -> None:
    code, out, _ = llmrec("data", "list", "--json")
    assert code == 0
    assert {"ml-100k", "files"} <= {source["source"] for source in json.loads(out)}
