"""The stages of a run in order: data → items → catalogue → tasks → train → evaluate → report.

Each stage is a folder; a stage whose recipe part, inputs and format are unchanged is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmrec import extras, shipped
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.files import hash_file, hash_folder, read_json, write_json, write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Recipe
from llmrec.recipe_file import dump
from llmrec.stage import Stage, lock, made_hash

Tell = Callable[[str, float], None]  # stage, share done (0 to 1)
STAGES = ("data", "items", "catalogue", "tasks", "train", "evaluate", "report")

_DATA, _ITEMS, _CATALOGUE, _TASKS, _TRAIN, _EVALUATE = 1, 1, 1, 1, 1, 2  # format numbers: raise one to redo its stage


def run(recipe: Recipe, out: Path, until: str = "report", tell: Tell = lambda stage, done: None) -> Path:
    """Run a recipe into a folder, going on where an earlier run of it stopped.

    Args:
        recipe: what to do.
        out: the run folder.
        until: the last stage wanted, one of `STAGES`.
        tell: told how far each stage is.

    Returns:
        The run folder.

    Raises:
        LlmrecError: see the stages.
        RunError: the folder is in use, or cannot be written.
    """
    extras.need(*(name for name, stage in (("train", "train"), ("report", "report")) if _reaches(until, stage)))
    with lock(out):
        write_text(out / "recipe.yaml", dump(recipe))
        last = STAGES.index(until)
        hashes: dict[str, str] = {}
        for stage in STAGES[: last + 1]:
            tell(stage, 0.0)
            _MAKERS[stage](recipe, out, hashes, lambda done, stage=stage: tell(stage, min(done, 0.999)))  # type: ignore[misc]
            tell(stage, 1.0)
    return out


def _reaches(until: str, stage: str) -> bool:
    return STAGES.index(until) >= STAGES.index(stage)


def _data(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    files = {name: Path(getattr(recipe.data, name) or "") for name in ("interactions", "items")}
    inputs = {name: hash_file(file) for name, file in files.items() if file.is_file()}
    part = recipe.data.model_dump(mode="json") | {name: file.name for name, file in files.items()}  # wherever they lie
    stage = Stage(out / "data", _DATA, part, inputs, recipe.seed)
    hashes["data"] = stage.run(lambda folder: data.make(recipe.data, recipe.seed, folder))


def _items(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.items.encode import encode
    from llmrec.items.text import item_texts

    def make(folder: Path) -> dict[str, Any]:
        texts = item_texts(Dataset.load(out / "data").items, recipe.items.text, recipe.items.missing_text)
        vectors = encode(texts, recipe.items.encoder, progress)
        (folder / "vectors").mkdir()
        np.save(folder / "vectors" / f"{recipe.items.encoder}.npy", vectors)
        write_json(folder / "texts.json", texts)
        return {"items": len(texts), "dimensions": vectors.shape[1], "example": texts[0]}

    inputs = {"items": hash_file(out / "data" / "items.parquet")}
    hashes["items"] = Stage(out / "items", _ITEMS, recipe.items.model_dump(mode="json"), inputs, recipe.seed).run(make)


def _catalogue(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.indexing import build

    old = Path(recipe.model.start) / "catalogue" if recipe.model.start else None

    def make(folder: Path) -> dict[str, Any]:
        items = Dataset.load(out / "data").items
        vectors = np.load(out / "items" / "vectors" / f"{recipe.items.encoder}.npy")
        if old:
            return build.extend(old, items, vectors, recipe.seed, folder)
        return build.make(recipe.indexing, items, vectors, recipe.seed, folder)

    inputs = {"items": hashes["items"]} | ({"old": made_hash(old)} if old else {})
    stage = Stage(out / "catalogue", _CATALOGUE, recipe.indexing.model_dump(mode="json"), inputs, recipe.seed)
    hashes["catalogue"] = stage.run(make)


def _tasks(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.tasks import examples

    def make(folder: Path) -> dict[str, Any]:
        dataset, catalogue = Dataset.load(out / "data"), Catalogue.load(out / "catalogue")
        texts = read_json(out / "items" / "texts.json")
        return examples.make(
            recipe.tasks, dataset.before("valid"), dataset.user_ids, catalogue, texts, recipe.seed, folder
        )

    inputs = {name: hashes[name] for name in ("data", "items", "catalogue")} | {
        "prompts": hash_folder(shipped.folder("prompts"))
    }
    hashes["tasks"] = Stage(out / "tasks", _TASKS, recipe.tasks.model_dump(mode="json"), inputs, recipe.seed).run(make)


def _train(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    planned = [out / f"train-{number}-{part.method}" for number, part in enumerate(recipe.train, 1)]
    for stale in set(out.glob("train-*-*")) - set(planned):
        shutil.rmtree(stale)
    previous = trained_folder(Path(recipe.model.start)) if recipe.model.start else None
    for number, folder in enumerate(planned, 1):
        share = partial(_share, progress, number - 1, len(planned))
        hashes["train"] = _train_one(recipe, out, number, folder, previous, hashes, share)
        previous = folder


def _train_one(
    recipe: Recipe,
    out: Path,
    number: int,
    folder: Path,
    previous: Path | None,
    hashes: dict[str, str],
    progress: Callable[[float], None],
) -> str:
    """One training stage; it starts from the model of the stage, or of the run, before it, where there is one."""
    work = out / ".work" / folder.name
    parts = {
        "model": recipe.model.model_dump(mode="json"),
        "train": recipe.train[number - 1].model_dump(mode="json"),
        "history": recipe.tasks.history,
    }
    inputs = {"tasks": hashes["tasks"], "catalogue": hashes["catalogue"]}
    inputs |= {"previous": made_hash(previous)} if previous else {}
    stage = Stage(folder, _TRAIN, parts, inputs, recipe.seed)

    def make(target: Path) -> dict[str, Any]:
        from llmrec.tasks import examples
        from llmrec.train import stage as training

        catalogue, table = Catalogue.load(out / "catalogue"), examples.load(out / "tasks")
        before = previous / "model" if previous else None
        return training.make(recipe, number, catalogue, table, stage.key, work, before, target, progress)

    output = stage.run(make)
    shutil.rmtree(work, ignore_errors=True)
    return output


def _share(progress: Callable[[float], None], before: int, stages: int, done: float) -> None:
    progress((before + done) / stages)


def _evaluate(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.decode.recommender import Recommender
    from llmrec.evaluate.ranking import evaluate

    trained = out / f"train-{len(recipe.train)}-{recipe.train[-1].method}"

    def make(folder: Path) -> dict[str, Any]:
        dataset = Dataset.load(out / "data")
        recommender = Recommender.open(trained / "model", out / "catalogue", recipe.evaluate.wording == "held-out")
        result = evaluate(
            recommender, recipe.model.name, dataset, recipe.evaluate, "test", recipe.seed, folder, progress
        )
        return {"users": result["protocol"]["users"]}

    inputs = {"data": hashes["data"], "model": hashes["train"]}
    stage = Stage(trained / "eval", _EVALUATE, recipe.evaluate.model_dump(mode="json"), inputs, recipe.seed)
    hashes["evaluate"] = stage.run(make)


def _report(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.report import write_report

    write_report(out)


def trained_folder(out: Path) -> Path:
    """The folder of the last training stage of a run.

    Raises:
        RunError: nothing has been trained in it.
    """
    found = sorted(out.glob("train-*-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [folder for folder in found if (folder / "made.json").is_file()]
    if not whole:
        raise RunError(f"{out} holds no trained model. Make one with: llmrec run RECIPE --out {out}")
    return whole[-1]


_MAKERS = dict(zip(STAGES, (_data, _items, _catalogue, _tasks, _train, _evaluate, _report), strict=True))
