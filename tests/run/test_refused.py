"""What a run refuses, by name and without losing anything: other versions, edited files, models that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmrec import collaborative
from llmrec.contracts import Sizes
from llmrec.data.dataset import Dataset
from llmrec.errors import LlmrecError, ModelError, RunError
from llmrec.recipe import ModelSpec
from llmrec.recipe.collaborative import EaseRecentSpec, EaseSpec, PopularitySpec
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.recommender import describe
from llmrec.run.stage import require_current
from llmrec.run.stage_functions import load_collaborative

BEFORE_TRAINING = ["train.0.epochs=0.2", "evaluate.baselines=[popularity]", "model.width=32", "model.heads=1"]


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder → what it holds; but for the lock, which says who held it last."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its tasks; tests copy it."""
    return execute.run(load(world, BEFORE_TRAINING), tmp_path_factory.mktemp("made") / "run", "tasks")


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.mark.parametrize("layout", [None, 1, 3])
@pytest.mark.parametrize("stage", ["data", "tasks", "train-1-sft", "collaborative/ease", "evaluate-test"])
def test_a_run_folder_of_another_version_is_named_and_keeps_every_byte(
    layout: int | None, stage: str, copied: Path, world: Path
) -> None:
    """Of the first one, whose made.json has no layout, or of a later one."""
    folder = copied / stage
    if not folder.is_dir():
        shutil.copytree(copied / "items", folder)
    noted = json.loads((folder / "made.json").read_text())
    del noted["layout"]
    (folder / "made.json").write_text(json.dumps(noted | ({"layout": layout} if layout else {})))
    before = everything(copied)
    words = rf"{folder} was made by another version of llmrec \(layout {layout or 1}; .*--out DIR"
    for until in ("data", "train"):
        with pytest.raises(RunError, match=words):
            execute.run(load(world, [*BEFORE_TRAINING, "seed=3"]), copied, until)
    with pytest.raises(RunError, match=words):
        execute.train(load(world, BEFORE_TRAINING), copied)
    assert everything(copied) == before


def test_what_reads_a_run_of_another_version_names_it(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    noted = json.loads((run / "data" / "made.json").read_text())
    del noted["layout"]
    (run / "data" / "made.json").write_text(json.dumps(noted))
    before = everything(run)
    with pytest.raises(RunError, match=r"data was made by another version of llmrec \(layout 1; "):
        describe(run)
    assert everything(run) == before


@pytest.mark.parametrize("how", ["missing", "edited", "cut"])
@pytest.mark.parametrize("stage", ["data", "items", "catalogue", "tasks"])
def test_a_missing_or_edited_file_is_named_by_what_makes_and_by_what_reads_a_run(
    stage: str, how: str, copied: Path, world: Path
) -> None:
    recipe = load(world, BEFORE_TRAINING)
    file = copied / stage / sorted(json.loads((copied / stage / "made.json").read_text())["files"])[0]
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if how == "edited" else content[:-1])
    before = everything(copied)
    words = (
        rf"{file} {'is missing' if how == 'missing' else 'was changed after it was made'}\. .*delete {copied / stage} "
    )
    with pytest.raises(RunError, match=words):
        execute.run(recipe, copied, "train")
    with pytest.raises(RunError, match=words):
        require_current(
            RunFolder(copied), [spec for spec in plan(recipe) if (copied / spec.name).is_dir()], recipe.seed
        )
    assert everything(copied) == before
    file.write_bytes(content)
    execute.run(recipe, copied, "tasks")


def test_a_copied_run_whose_files_have_new_times_is_taken(copied: Path, world: Path) -> None:
    for file in copied.rglob("*"):
        file.touch()
    before = everything(copied)
    execute.run(load(world, BEFORE_TRAINING), copied, "tasks")
    assert everything(copied) == before


@pytest.mark.parametrize(("spec", "folder"), [(PopularitySpec(), "popularity"), (EaseRecentSpec(), "ease-recent")])
def test_a_collaborative_model_of_another_catalogue_is_refused(
    spec: ModelSpec, folder: str, world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    for name in ("items.csv", "log.csv"):
        file = tmp_path / "world" / name
        file.write_text(file.read_text().replace("i39,", "j39,"))
    baseline = [*BEFORE_TRAINING, "evaluate.baselines=[popularity, ease-recent]"]
    one = RunFolder(execute.run(load(world, baseline), tmp_path / "one", "evaluate"))
    other = execute.run(load(tmp_path / "world" / "recipe.yaml", baseline), tmp_path / "other", "data")
    dataset = Dataset.load(RunFolder(other).data, texts=False)
    with pytest.raises(ModelError, match=rf"collaborative/{folder} holds a model .*of another catalogue"):
        load_collaborative(one, spec, dataset)
    recipe = recipe_of(one.path)  # a copy of the other's model in this run is no stage of it, either
    fitted = execute.run(load(tmp_path / "world" / "recipe.yaml", baseline), tmp_path / "other", "evaluate")
    for name in ("popularity", "ease", "ease-recent"):
        shutil.rmtree(one.stage(f"collaborative/{name}"))
        shutil.copytree(fitted / "collaborative" / name, one.stage(f"collaborative/{name}"))
    with pytest.raises(RunError, match="collaborative/popularity was made from another data than the run holds now"):
        require_current(one, plan(recipe), recipe.seed)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("evaluate.baselines=[popularity, ease]", "evaluate.baselines"),
        ("evaluate.ensemble={model: ease}", "evaluate.ensemble.model"),
        ("train.0={method: sft, teacher_replace_prob: 0.2, teacher: ease}", "train.0.teacher"),
    ],
)
def test_collaborative_models_too_large_for_memory_are_refused_after_the_data_and_before_training(
    change: str, place: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, sizes = load(world, [*BEFORE_TRAINING, change]), Sizes(60, 40, 840)
    least = max(collaborative.peak_memory([PopularitySpec()], sizes))
    assert least + 100 < max(collaborative.peak_memory([EaseSpec()], sizes))
    monkeypatch.setattr(collaborative, "available_memory", lambda: least + 100)
    with pytest.raises(ModelError, match=rf"{place}: .*ease.* GiB .*these fit: popularity"):
        execute.run(recipe, tmp_path / "run")
    assert [path.name for path in RunFolder(tmp_path / "run").stages] == ["data"]
    assert execute.run(recipe, tmp_path / "run", "catalogue")  # what fits no model is made all the same


def test_a_run_whose_source_is_gone_is_read_and_only_its_making_needs_it(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    recipe = load(tmp_path / "world" / "recipe.yaml", BEFORE_TRAINING)
    run = RunFolder(execute.run(recipe, tmp_path / "run", "items"))
    shutil.rmtree(tmp_path / "world")
    require_current(run, plan(recipe)[:2], recipe.seed)
    before = everything(run.path)
    with pytest.raises(LlmrecError, match=r"items\.csv|log\.csv"):
        execute.run(recipe, run.path, "items")
    assert everything(run.path) == before


def test_a_setting_that_a_stage_did_not_know_is_named_though_it_is_null(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    file, recipe = tmp_path / "data" / "made.json", recipe_of(made)
    record = json.loads(file.read_text())
    name = next(key for key, value in record["config"].items() if value is None)
    del record["config"][name]
    file.write_text(json.dumps(record | {"key": "0" * 64}))
    with pytest.raises(RunError, match=f"data was made with {name}: no such setting, and the recipe has null"):
        require_current(RunFolder(tmp_path), plan(recipe)[:1], recipe.seed)
