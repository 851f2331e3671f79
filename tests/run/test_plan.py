"""The plan of a recipe: every setting that decides a result is in a key, and nothing else is."""

from __future__ import annotations

import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from llmrec import resources
from llmrec.errors import RunError
from llmrec.recipe import Part, Recipe, Sft
from llmrec.recipe.collaborative import SPECS, ModelSpec
from llmrec.recipe.stages import STAGES
from llmrec.recipe_file import load
from llmrec.run.layout import DATA, RunFolder
from llmrec.run.plan import plan
from llmrec.run.stage import Outside, require_current, resolve

HOW = {  # settings that say how a result is made, not which
    *("gradient_accumulation", "gradient_checkpointing", "save_every", "device"),
    *("evaluate.batch", "tasks.oracle.url", "tasks.oracle.cache"),
    *(
        "launch.processes",
        "launch.strategy",
        "launch.nodes",
        "launch.node_rank",
        "launch.master_addr",
        "launch.master_port",
    ),
    *("launch.report_to", "chat.by", "chat.url", "chat.model"),
}
OTHER: dict[str, Any] = {  # another valid value, where none follows from the type
    "data.since": "2014-01-31",
    "data.until": "2014-01-31",
    "data.delimiter": ";",
    "data.split": "cold-users",
    "items.text": ["title", "kind"],
    "evaluate.ranking": ["hr@3"],
    "tasks.mixture": "openp5",
    "tasks.max_examples": {"next_item": 5},
    "validation.metric": "hr@3",
    "negatives": {"random": 3},
    "rewards": {"hit": 1.0, "rank": 0.5},
    "launch.nodes": 2,
}
FIRST = {"teacher_replace_prob": 0.1, "teacher": "markov"}
SERVER = {"by": "server", "cache": "a.jsonl", "url": "http://a", "model": "a"}
STARTS: dict[str, dict[str, Any]] = {  # what a recipe must hold for a setting to be valid, by the setting's beginning
    "data.synthetic": {"data": {"source": "synthetic"}},
    "data.columns": {"data": {"source": "files", "interactions": "a.csv", "items": "b.csv", "columns": {"split": "s"}}},
    "data": {"data": {"source": "files", "interactions": "a.csv", "items": "b.csv"}},
    "tasks.oracle": {"tasks": {"oracle": SERVER}},
    "evaluate.ensemble.": {"evaluate": {"ensemble": {}}},
    "launch.node_rank": {"launch": {"processes": 2, "nodes": 2, "master_addr": "a"}},
    "launch.nodes": {"launch": {"processes": 2, "master_addr": "a"}},
    "chat": {"chat": {"by": "server", "url": "http://a", "model": "a"}},
    "model.rank": {"model": {"base": "embedded:smol", "adapt": "lora"}},
    "model.adapt": {"model": {"base": "embedded:smol"}},
    "model.init_tokens": {"model": {"base": "embedded:smol"}},
}


def settings(part: type[Part], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a part and of the parts in it, by its dotted name; of stages each kind, and each model's."""
    for name, field in part.model_fields.items():
        address = f"{before}{name}"
        inner: Any = next(
            (one for one in kinds(field.annotation) if isinstance(one, type) and issubclass(one, Part)), None
        )
        if address == "train":
            stages: dict[str, Any] = dict(STAGES)
            for kind, stage in stages.items():
                yield from settings(stage, f"train.{kind}.")
            continue
        if inner and not issubclass(inner, ModelSpec):
            yield from settings(inner, f"{address}.")
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue
        if inner is None or type(None) in kinds(field.annotation) or issubclass(inner, ModelSpec):
            yield address, field


def kinds(annotation: Any) -> list[Any]:
    """The types that an annotation is a union of, metadata taken off."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for one in get_args(annotation) for kind in kinds(one)]
    return [annotation]


def others(kind: Any, value: Any) -> list[Any]:
    """Values of a type that may be valid in the place of another."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) is list:
        return [[one] for inner in kinds(get_args(kind)[0]) for one in others(inner, None)]
    if isinstance(kind, type) and issubclass(kind, ModelSpec):
        return ["popularity"]
    if isinstance(kind, type) and issubclass(kind, Part):
        return [{}]
    number = value if isinstance(value, int | float) else 0
    simple: dict[Any, list[Any]] = {
        bool: [not value],
        int: [2 * number, number // 2, number + 1, 64],
        float: [number / 2, 0.25, 0.5],
        str: ["other.csv"],
        type(None): [],
    }
    return simple[kind]


def based(address: str) -> dict[str, Any]:
    """The values of a recipe in which a setting counts."""
    found = max((start for start in STARTS if address.startswith(start)), key=len, default="")
    values: dict[str, Any] = {"train": [FIRST], "items": {"encoder": "hashing"}} | STARTS.get(found, {})
    if address.startswith("train.prefer."):
        values["train"] = [FIRST, {"method": "dpo", "negatives": {"random": 2, "teacher": 2}}]
    if address.startswith("train.grpo."):
        values["train"] = [FIRST, {"method": "grpo", "rewards": {"hit": 1.0, "teacher": 1.0}}]
    if address.endswith(".adapt") or ".loss" in address:
        values["model"] = {"base": "embedded:smol"}
    return values


def set_in(values: Any, address: str, value: Any) -> Any:
    """The same values with one of them set."""
    first, _, rest = address.partition(".")
    if isinstance(values, list):
        return [*values[:-1], set_in(values[-1], rest, value)]  # the kind of a stage is no key
    return values | {first: set_in(values.get(first, {}), rest, value) if rest else value}


def changed(address: str, field: FieldInfo) -> tuple[Recipe, Recipe]:
    """A recipe and the same with another value of a setting."""
    values = based(address)
    recipe = Recipe.model_validate(values)
    tail = ".".join(address.split(".")[2:]) if address.startswith("train.") else address
    given = (
        [OTHER[tail]]
        if tail in OTHER
        else [one for kind in kinds(field.annotation) for one in others(kind, field.default)]
    )
    for value in given:
        try:
            other = Recipe.model_validate(set_in(values, address, value))
        except ValidationError:
            continue
        if other != recipe:
            return recipe, other
    raise AssertionError(f"no other value of {address} is known: add one to OTHER")


def signature(recipe: Recipe) -> list[Any]:
    """All that the keys of a recipe's stages hold, but for hashes."""
    return [
        (
            spec.name,
            spec.config,
            [read.label if isinstance(read, Outside) else read for read in spec.reads],
            recipe.seed,
        )
        for spec in plan(recipe)
    ]


def is_how(address: str) -> bool:
    return address in HOW or address.rsplit(".", 1)[-1] in HOW


def fill(folder: Path) -> dict[str, Any]:
    """A stage that holds nothing; data hold their table of items."""
    (folder / "items.parquet").write_bytes(b"")
    return {}


def pretend(recipe: Recipe, folder: Path) -> RunFolder:
    """A run folder whose stages are just as the plan wants them, without what is in them."""
    run = RunFolder(folder)
    for spec in plan(recipe):
        resolve(run, spec, recipe.seed).make(fill)
    return run


SETTINGS = dict(settings(Recipe))


@pytest.mark.parametrize("address", SETTINGS)
def test_a_setting_changes_a_key_just_if_it_decides_a_result(address: str) -> None:
    recipe, other = changed(address, SETTINGS[address])
    assert (signature(recipe) == signature(other)) is is_how(address)


@pytest.mark.parametrize("place", ["train.0.teacher", "evaluate.ensemble.model", "evaluate.baselines"])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, spec in SPECS.items() for name in spec.model_fields])
def test_a_parameter_of_a_collaborative_model_changes_a_key_and_its_device_none(
    kind: str, name: str, place: str
) -> None:
    def recipe(entry: Any) -> Recipe:
        values = {
            "train.0.teacher": {"train": [{"teacher_replace_prob": 0.1, "teacher": entry}]},
            "evaluate.ensemble.model": {"evaluate": {"ensemble": {"model": entry}}},
            "evaluate.baselines": {"evaluate": {"baselines": [entry]}},
        }
        return Recipe.model_validate(values[place])

    field = SPECS[kind].model_fields[name]
    value = next(one for one in others(kinds(field.annotation)[0], field.default) if one != field.default)
    assert (signature(recipe(kind)) == signature(recipe({kind: {name: value}}))) is (name == "device")


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return pretend(Recipe(), tmp_path_factory.mktemp("pretended"))


ISSUE = {  # settings in which runs of two recipes were once taken for one another
    "label_smoothing": {"train": [{"label_smoothing": 0.1}]},
    "teacher_replace_prob": {"train": [{"teacher_replace_prob": 0.1}]},
    "loss": {"train": [{"loss": "trie"}]},
    "item_dropout": {"train": [{"item_dropout": 0.1}]},
    "weight_average": {"train": [{"weight_average": 0.1}]},
    "reserved_token_prob": {"train": [{"reserved_token_prob": 0.1}]},
    "vectors": {"indexing": {"fusion": "ppmi"}},
    "hybrid": {"indexing": {"append": ["item"]}},
    "an added task": {"tasks": {"sequential": 1.0}},
    "blend": {"evaluate": {"ensemble": {}}},
    "target": {"evaluate": {"split": "valid"}},
    "a second stage": {"train": [{}, {"method": "dpo"}]},
    "init_tokens": {"model": {"init_tokens": "vectors"}},
    "templates": {"tasks": {"templates": 1}},
    "beams": {"evaluate": {"beams": 60}},
    "seed": {"seed": 1},
    "since": {"data": {"since": "1998-01-01"}},
}


@pytest.mark.parametrize("name", ISSUE)
def test_a_run_of_one_recipe_is_not_taken_for_one_of_another_nor_the_other_way_round(
    name: str, pretended: RunFolder, tmp_path: Path
) -> None:
    one, other = Recipe(), Recipe.model_validate(ISSUE[name])
    require_current(pretended, plan(one), one.seed)
    with pytest.raises(RunError, match=r"was made|is not made"):
        require_current(pretended, plan(other), other.seed)
    reverse = pretend(other, tmp_path / "run")
    require_current(reverse, plan(other), other.seed)
    with pytest.raises(RunError, match=r"was made|is not made"):
        require_current(reverse, plan(one), one.seed)


def test_a_refusal_names_the_setting_and_both_its_values(pretended: RunFolder) -> None:
    other = Recipe(train=[Sft(label_smoothing=0.1)])
    with pytest.raises(
        RunError, match=r"train-1-sft was made with train\.label_smoothing: 0\.0, and the recipe has 0\.1"
    ):
        require_current(pretended, plan(other), other.seed)
    with pytest.raises(RunError, match="data was made with seed 42, and the recipe has seed 3"):
        require_current(pretended, plan(Recipe(seed=3)), 3)


def test_a_collaborative_model_is_fitted_right_before_what_reads_it_and_after_its_parts() -> None:
    names = [spec.name for spec in plan(Recipe(train=[Sft(teacher_replace_prob=0.1)]))]
    for spec in plan(Recipe(train=[Sft(teacher_replace_prob=0.1)])):
        for read in spec.reads:
            if isinstance(read, str) and read != f"{DATA}/items.parquet":
                assert names.index(read) < names.index(spec.name)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [None, *sorted(path.stem for path in resources.folder("recipes").glob("*.yaml"))])
def test_every_shipped_recipe_plans_also_where_its_data_are_not(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run that was copied to a machine without its data is read there; None: the recipe of defaults alone."""
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    specs = plan(load(resources.recipe_path(name)) if name else Recipe())
    kinds_of = [spec.kind for spec in specs if spec.kind != "collaborative"]
    assert kinds_of[:4] == ["data", "items", "catalogue", "tasks"]
    assert kinds_of[4:-1] == ["train"] * (len(kinds_of) - 5) and kinds_of[-1] == "evaluate"


ALIGNED = {"train": [{}, {"method": "dpo"}], "evaluate": {"generation": ["explanation"]}}


@pytest.mark.parametrize(
    ("prompt", "redone"),
    [
        ("chat/chat", []),
        ("replies", []),
        ("hearing", []),
        ("oracle", []),
        ("p5/sequential", []),
        ("alignment/item_to_text", ["tasks"]),
        ("sequence/next_item", ["tasks", "train-1-sft", "train-2-dpo"]),
        ("p5/explanation", ["evaluate-test"]),
    ],
)
def test_an_edited_prompt_redoes_what_is_made_with_it_and_nothing_else(
    prompt: str, redone: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(resources.folder("prompts"), tmp_path / "prompts")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path)
    recipe = Recipe.model_validate(ALIGNED)
    run = pretend(recipe, tmp_path / "run")
    with (tmp_path / "prompts" / f"{prompt}.yaml").open("a") as file:
        file.write("\n# edited\n")
    assert [spec.name for spec in plan(recipe) if not resolve(run, spec, recipe.seed).is_made()] == redone
