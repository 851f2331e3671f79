"""The stages of a run in order: data → items → catalogue → tasks → train → evaluate → report.

Each stage is a folder; a stage whose recipe part, inputs and format are unchanged is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmrec import shipped
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.files import hash_file, hash_folder, read_json, write_json, write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Recipe, dump
from llmrec.stage import Stage, lock

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
    with lock(out):
        write_text(out / "recipe.yaml", dump(recipe))
        last = STAGES.index(until)
        hashes: dict[str, str] = {}
        for stage in STAGES[: last + 1]:
            tell(stage, 0.0)
            _MAKERS[stage](recipe, out, hashes, lambda done, stage=stage: tell(stage, min(done, 0.999)))  # type: ignore[misc]
            tell(stage, 1.0)
    return out


def _data(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    files = [Path(name) for name in (recipe.data.interactions, recipe.data.items) if name]
    inputs = {file.name: hash_file(file) for file in files if file.is_file()}
    stage = Stage(out / "data", _DATA, recipe.data.model_dump(mode="json"), inputs, recipe.seed)
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
    from llmrec.indexing import rq_kmeans, separate
    from llmrec.indexing.health import health

    def make(folder: Path) -> dict[str, Any]:
        items, vectors = (
            Dataset.load(out / "data").items,
            np.load(out / "items" / "vectors" / f"{recipe.items.encoder}.npy"),
        )
        books = rq_kmeans.fit(vectors, recipe.indexing.levels, recipe.indexing.width, recipe.seed)
        codes, residual = books.encode(vectors)
        codes = separate.last_level(codes, np.linalg.norm(residual, axis=1))
        widths = [recipe.indexing.width] * recipe.indexing.levels + [
            int(codes[:, -1].max()) + 1 + recipe.indexing.spares
        ]
        report = health(codes, widths, vectors, recipe.seed)
        np.save(folder / "codebooks.npy", books.centroids)
        Catalogue.of(items, codes, widths).save(folder, report)
        return {"verdict": report["verdict"]}

    inputs = {"items": hashes["items"]}
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
    for number, part in enumerate(recipe.train, 1):
        folder = out / f"train-{number}-{part.method}"
        inputs = {"tasks": hashes["tasks"], "catalogue": hashes["catalogue"], "previous": hashes.get("train", "")}
        parts = {
            "model": recipe.model.model_dump(mode="json"),
            "train": part.model_dump(mode="json"),
            "history": recipe.tasks.history,
        }
        stage = Stage(folder, _TRAIN, parts, inputs, recipe.seed)

        def make(target: Path, key: str = stage.key, number: int = number) -> dict[str, Any]:
            from llmrec.tasks import examples
            from llmrec.train import stage as training

            catalogue, table = Catalogue.load(out / "catalogue"), examples.load(out / "tasks")
            return training.make(recipe, number, catalogue, table, key, _work(out, number), target, progress)

        hashes["train"] = stage.run(make)
        shutil.rmtree(_work(out, number), ignore_errors=True)


def _evaluate(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.decode.recommender import Recommender
    from llmrec.evaluate.ranking import evaluate

    trained = trained_folder(out)

    def make(folder: Path) -> dict[str, Any]:
        dataset, catalogue = Dataset.load(out / "data"), Catalogue.load(out / "catalogue")
        recommender = Recommender(trained / "model", catalogue, recipe.evaluate.wording == "held-out")
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


def _work(out: Path, number: int) -> Path:
    return out / ".work" / f"train-{number}"


_MAKERS = dict(zip(STAGES, (_data, _items, _catalogue, _tasks, _train, _evaluate, _report), strict=True))
