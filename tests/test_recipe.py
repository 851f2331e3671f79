"""Recipes: what is wrong is said with the line and the nearest right name; defaults and overrides do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmrec import resources
from llmrec.errors import RecipeError
from llmrec.recipe import Recipe
from llmrec.recipe_file import dump, load

GOOD = """\
seed: 7
data: {source: ml-100k}
train:
  - {method: sft, epochs: 2}
  - method: sft
    epochs: 1
"""


def recipe(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(recipe(folder, text), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("sede: 1\n", 1, "unknown key 'sede'. Did you mean 'seed'?"),
        ("seed: 1\ndata:\n  sauce: files\n", 3, "unknown key 'data.sauce'. Did you mean 'data.source'?"),
        (GOOD.replace("    epochs", "    epoch"), 6, "unknown key 'train.1.epoch'. Did you mean 'train.1.epochs'?"),
        ("data:\n  columns:\n    user: u\n", 3, "Did you mean 'data.columns.user_id'?"),
        ("model:\n  zzz: 1\n", 2, "unknown key 'model.zzz'. Known there: base, vocabulary"),
        ("data: {source: ml-100}\n", 1, "(given: 'ml-100'). Did you mean 'ml-100k'?"),
        ("seed: -1\n", 1, "greater than or equal to 0 (given: -1)"),
        ("train:\n  - {learning_rate: 3e-4x}\n", 2, "Write numbers such as 3.0e-4"),
        ("train: []\n", 1, "at least 1 item"),
        ("model: {width: 100, heads: 3}\n", 1, "width / heads must be 32 or 64"),
        ("\ndata: {source: files}\n", 2, "needs both `interactions` and `items`"),
        ("evaluate: {ranking: [hr@x]}\n", 1, "evaluate.ranking.0"),
        ("evaluate:\n  ranking: [hr@60]\n", 1, "beams: 50 cannot rank the 60 items"),
        ("data: 3\n", 1, "data"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_remedy(text: str, line: int, words: str, tmp_path: Path) -> None:
    message = refused(tmp_path, text)
    assert f"mine.yaml, line {line}: " in message
    assert words in message


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    assert len(refused(tmp_path, "sede: 1\nitems: {texts: [title]}\nmodel: {layer: 2}\n").splitlines()) == 3


@pytest.mark.parametrize("text", ["[1, 2]\n", "just words\n", "a: [\n", "a: b: c\n", "? {1: 2}\n: 3\n"])
def test_what_is_no_mapping_is_refused_in_words(text: str, tmp_path: Path) -> None:
    assert "mine.yaml" in refused(tmp_path, text)


def test_a_number_with_an_exponent_means_a_number_with_or_without_the_point(tmp_path: Path) -> None:
    """YAML reads 3e-4 as text; pydantic reads it as a number all the same."""
    for text in ("3e-4", "3.0e-4", "0.0003"):
        assert load(recipe(tmp_path, f"train: [{{learning_rate: {text}}}]\n")).train[0].learning_rate == 3e-4


def test_overrides_reach_keys_and_lists_by_number(tmp_path: Path) -> None:
    changes = ["seed=9", "train.1.epochs=0.5", "evaluate.ranking=[hr@3]", "data.columns.rating=stars", "model.layers=2"]
    changed = load(recipe(tmp_path, GOOD), changes)
    assert (changed.seed, changed.model.layers, changed.data.columns.rating) == (9, 2, "stars")
    assert [stage.epochs for stage in changed.train] == [2, 0.5]
    assert changed.evaluate.ranking == ["hr@3"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "has no '='"),
        ("sede=1", "Did you mean 'seed'?"),
        ("train.2.epochs=1", "'2' must be a number below 2"),
        ("train.x.epochs=1", "'x' must be a number below 2"),
        ("seed.more=1", "there is nothing below 'seed' to set"),
        ("train.0.epochs=soon", "(given: 'soon')"),
        ("train.0.epochs=[", "is not valid YAML"),
        ("=1", "has an empty key"),
    ],
)
def test_an_override_that_cannot_be_is_refused_in_words(override: str, words: str, tmp_path: Path) -> None:
    assert words in refused(tmp_path, GOOD, override)


def test_a_list_that_the_file_lacks_is_begun_by_an_override(tmp_path: Path) -> None:
    assert load(recipe(tmp_path, ""), ["train.0.epochs=3"]).train[0].epochs == 3


def test_files_are_relative_to_the_recipe_and_not_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "data: {source: files, interactions: logs/a.csv, items: /elsewhere/items.csv}\n"
    (tmp_path / "away").mkdir()
    path = recipe(tmp_path, text)
    monkeypatch.chdir(tmp_path / "away")
    found = load(path).data
    assert found.interactions == str(tmp_path / "logs" / "a.csv")
    assert found.items == "/elsewhere/items.csv"


def test_a_dumped_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    one = load(recipe(tmp_path, GOOD), ["seed=3"])
    assert load(recipe(tmp_path, dump(one))) == one
    assert set(yaml.safe_load(dump(one))) == set(Recipe.model_fields)


@pytest.mark.parametrize("path", sorted(resources.folder("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_tiny_is_the_same_shape_at_a_small_size(path: Path) -> None:
    whole, tiny = load(path), load(path, tiny=True)
    assert tiny.data.max_users and tiny.data.max_users <= 200
    assert tiny.indexing.levels == whole.indexing.levels
    assert [stage.method for stage in tiny.train] == [stage.method for stage in whole.train]
    assert all(stage.epochs <= 1 for stage in tiny.train)
    assert tiny.model.adapt == whole.model.adapt


def test_tiny_never_makes_anything_larger(tmp_path: Path) -> None:
    small = "data: {max_users: 5}\nindexing: {width: 4}\ntasks: {history: 3}\ntrain: [{epochs: 0.5, batch: 2}]\n"
    tiny = load(recipe(tmp_path, small), tiny=True)
    assert (tiny.data.max_users, tiny.indexing.width, tiny.tasks.history, tiny.train[0].epochs) == (5, 4, 3, 0.5)


def test_a_recipe_is_found_by_path_or_by_its_shipped_name(tmp_path: Path) -> None:
    assert resources.recipe_path("quickstart") == resources.folder("recipes") / "quickstart.yaml"
    assert resources.recipe_path(str(recipe(tmp_path, GOOD))) == tmp_path / "mine.yaml"
    for name in ("quikstart", str(tmp_path / "quickstart.yaml"), str(tmp_path)):
        with pytest.raises(RecipeError, match=r"there is no recipe '.*one of: .*quickstart"):
            resources.recipe_path(name)
