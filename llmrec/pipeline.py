"""The stages of a run in order: data → items → catalogue → tasks → train → evaluate → report.

Each stage is a folder; a stage whose recipe part, inputs and format are unchanged is skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmrec import extras, judging, launch, shipped
from llmrec.checked import check_file
from llmrec.data import dataset as data
from llmrec.data import sources
from llmrec.data.dataset import Dataset
from llmrec.errors import DataError, RunError
from llmrec.files import hash_file, hash_folder, write_json, write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Aligning, Recipe, Sft
from llmrec.recipe_file import dump, without_places
from llmrec.run_files import read_texts, read_vectors, trained_folders
from llmrec.run_folder import is_stage, refuse_below, refuse_foreign
from llmrec.stage import Stage, lock, made_hash
from llmrec.train import together, trackers

Tell = Callable[[str, float], None]  # stage, share done (0 to 1)
STAGES = ("data", "items", "catalogue", "tasks", "train", "evaluate", "report")

_DATA, _ITEMS, _CATALOGUE, _TASKS, _TRAIN = 2, 1, 2, 2, 2  # format numbers: raise one to redo its stage


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
    if together.world() > 1:
        raise RunError(
            "several processes run one recipe here. Start them on `llmrec train`, which shares the work between them, "
            "or start one and say `launch: {processes: N}` in the recipe."
        )
    if _reaches(until, "train"):
        _check_training(recipe, recipe.launch.processes)
        launch.check(recipe.launch)
    check_folder(recipe, out)
    out = out.absolute()  # DuckDB and Arrow take ~ for a home, and a colon for an address
    if recipe.launch.rank:
        launch.train(recipe.launch, out, lambda done: tell("train", done))  # machine 0 does all the rest
        return out
    with lock(out) as held:
        write_text(out / "recipe.yaml", dump(recipe))
        _make(recipe, out, STAGES[: STAGES.index(until) + 1], tell, held)
    return out


def train(recipe: Recipe, out: Path, tell: Tell = lambda stage, done: None) -> Path:
    """The training stages alone, and what they need where it is missing.

    Of several processes that `accelerate launch` started each calls this; they share the training, and the first one
    makes and writes everything else.

    Args:
        recipe: what to do.
        out: the run folder, which all processes see.
        tell: told how far each stage is.

    Returns:
        The run folder.

    Raises:
        LlmrecError: see the stages.
        RunError: the folder is in use, or cannot be written.
    """
    held = os.environ.get(launch.HELD) == os.path.realpath(out)  # by the process that started this one
    if together.world() == 1 and not held:
        return run(recipe, out, "train", tell)
    extras.need("train")
    _check_training(recipe, together.world())
    if not held:
        check_folder(recipe, out)
    out = out.absolute()
    together.begin()
    mine = together.is_first() and not held
    with lock(out) if mine else contextlib.nullcontext():
        if mine:
            write_text(out / "recipe.yaml", dump(recipe))
        with together.in_turn():
            hashes = _make(recipe, out, STAGES[: STAGES.index("train")], tell)
        _make(recipe, out, ("train",), tell, None, hashes)
    return out


def _make(
    recipe: Recipe,
    out: Path,
    stages: tuple[str, ...],
    tell: Tell,
    held: int | None = None,
    hashes: dict[str, str] | None = None,
) -> dict[str, str]:
    """Make stages in order; `held` is the descriptor of the lock, `hashes` those of earlier stages."""
    hashes = {} if hashes is None else hashes
    for stage in stages:
        tell(stage, 0.0)
        make = partial(_train, held=held) if stage == "train" else _MAKERS[stage]
        make(recipe, out, hashes, partial(_tell_part, tell, stage))
        tell(stage, 1.0)
    return hashes


def _tell_part(tell: Tell, stage: str, done: float) -> None:
    tell(stage, min(done, 0.999))


def _check_training(recipe: Recipe, processes: int) -> None:
    """Refuse now what training would refuse after everything before it is made."""
    trackers.chosen(recipe.launch.report_to)
    for number, stage in enumerate(recipe.train):
        try:
            stage.pass_rows(processes)
        except ValueError as error:
            raise RunError(f"train.{number}.{error}.") from None


def check_folder(recipe: Recipe, out: Path) -> None:
    """Refuse a folder that is not a run's, or that holds what the recipe reads, before anything is made or replaced.

    Args:
        recipe: of the run.
        out: the run folder, made or not.

    Raises:
        RunError: see `run_folder`.
    """
    refuse_foreign(out)
    named = {"data.interactions": recipe.data.interactions, "data.items": recipe.data.items}
    named |= {"model.base": recipe.model.base, "model.from": recipe.model.start}
    named |= {"tasks.oracle.cache": recipe.tasks.oracle.cache} if recipe.tasks.oracle else {}
    refuse_below(((key, path) for key, path in named.items() if path), out)
    with contextlib.suppress(DataError):  # what is missing is told by the stage that reads it
        refuse_below(((f"data.source: {recipe.data.source}", path) for _, path in sources.given(recipe.data)), out)


def _reaches(until: str, stage: str) -> bool:
    return STAGES.index(until) >= STAGES.index(stage)


def _data(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    inputs: dict[str, str] = {}
    for name, path in sources.given(recipe.data):
        if path.is_file():  # wherever it lies; several files may have one name
            told = f"{name} {path.name}"
            inputs[told if told not in inputs else f"{told} {len(inputs)}"] = hash_file(path)
    part = without_places(recipe).data.model_dump(mode="json")
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

    inputs = {"items": _hash_of_items(out)}
    hashes["items"] = Stage(out / "items", _ITEMS, recipe.items.model_dump(mode="json"), inputs, recipe.seed).run(make)


def _hash_of_items(out: Path) -> str:
    path = out / "data" / "items.parquet"
    check_file(path)
    return hash_file(path)


def _catalogue(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.indexing import build

    old = Path(recipe.model.start) / "catalogue" if recipe.model.start else None

    def make(folder: Path) -> dict[str, Any]:
        dataset = Dataset.load(out / "data", texts=False)
        items = dataset.items
        vectors = read_vectors(out, recipe.items.encoder, dataset.n_items)
        if old:
            return build.extend(old, items, vectors, recipe.seed, folder)
        train = dataset.before("valid") if recipe.indexing.behaves else None
        return build.make(recipe.indexing, items, vectors, recipe.seed, folder, train)

    inputs = {name: hashes[name] for name in ("items", *(["data"] if recipe.indexing.behaves else []))}
    inputs |= {"table": _hash_of_items(out)} | ({"old": made_hash(old)} if old else {})
    stage = Stage(out / "catalogue", _CATALOGUE, recipe.indexing.model_dump(mode="json"), inputs, recipe.seed)
    hashes["catalogue"] = stage.run(make)


def _tasks(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.tasks import examples
    from llmrec.tasks.source import Source
    from llmrec.tasks.wishes import worded

    def make(folder: Path) -> dict[str, Any]:
        dataset, catalogue = Dataset.load(out / "data"), Catalogue.load(out / "catalogue")
        source = Source.load(dataset, catalogue, read_texts(out, dataset.n_items))
        return examples.make(recipe.tasks, worded(source, catalogue.items, recipe.tasks), recipe.seed, folder)

    inputs = {name: hashes[name] for name in ("data", "items", "catalogue")} | {
        "prompts": hash_folder(shipped.folder("prompts"), without=("made.json", "rate.yaml"))  # `llmrec rate`'s alone
    }
    oracle = recipe.tasks.oracle
    if oracle and oracle.by == "replay" and oracle.cache and Path(oracle.cache).is_file():
        inputs["oracle"] = hash_file(Path(oracle.cache))
    hashes["tasks"] = Stage(out / "tasks", _TASKS, recipe.tasks.model_dump(mode="json"), inputs, recipe.seed).run(make)


def _train(
    recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None], held: int | None = None
) -> None:
    """The training stages; a process that holds the run's lock may start others where the recipe asks for them."""
    planned = [out / f"train-{number}-{part.method}" for number, part in enumerate(recipe.train, 1)]
    for stale in set(trained_folders(out)) - set(planned):
        if together.is_first() and is_stage(stale) and not stale.is_symlink():
            shutil.rmtree(stale)
    elsewhere = None
    if held is not None and not recipe.launch.alone:
        elsewhere = partial(launch.train, recipe.launch, out, progress, held)
    previous = trained_folder(Path(recipe.model.start)) if recipe.model.start else None
    for number, folder in enumerate(planned, 1):
        share = partial(_share, progress, number - 1, len(planned))
        hashes["train"] = _train_one(recipe, out, number, folder, previous, hashes, share, elsewhere)
        previous = folder


def _train_one(
    recipe: Recipe,
    out: Path,
    number: int,
    folder: Path,
    previous: Path | None,
    hashes: dict[str, str],
    progress: Callable[[float], None],
    elsewhere: Callable[[], None] | None,
) -> str:
    """One training stage; it starts from the model of the stage, or of the run, before it, where there is one.

    `elsewhere` makes this and all later training stages in other processes.
    """
    work = out / ".work" / folder.name
    parts = {
        "model": recipe.model.model_dump(mode="json"),
        "train": recipe.train[number - 1].model_dump(mode="json"),
        "history": recipe.tasks.history,
    }
    inputs = {"tasks": hashes["tasks"], "catalogue": hashes["catalogue"]}
    inputs |= {"previous": made_hash(previous)} if previous else {}
    inputs |= {"items": hashes["items"]} if recipe.model.init_tokens in ("text", "centroids", "vectors") else {}
    part = recipe.train[number - 1]
    aligns = isinstance(part, Aligning)
    if isinstance(part, Sft) and part.taught:
        parts["exclude_seen"] = recipe.evaluate.exclude_seen
        inputs["data"] = hashes["data"]
    if part.validation.every:
        parts["evaluate"] = recipe.evaluate.model_dump(mode="json", include={"beams", "exclude_seen", "wording"})
        inputs["data"] = hashes["data"]
    if aligns:
        parts |= {"exclude_seen": recipe.evaluate.exclude_seen, "wordings": recipe.tasks.wordings}
        inputs = {"data": hashes["data"], **{name: inputs[name] for name in ("catalogue", "previous")}}
    stage = Stage(folder, _TRAIN, parts, inputs, recipe.seed)

    def make(target: Path) -> dict[str, Any]:
        catalogue, before = Catalogue.load(out / "catalogue"), previous / "model" if previous else None
        validate, logs = _validator(recipe, number, out, catalogue), out / "logs" / folder.name
        if aligns and before:
            from llmrec.align import stage as aligning

            place = aligning.Place(number, stage.key, before, work, target, logs)
            dataset = Dataset.load(out / "data", texts=False)
            return aligning.make(recipe, place, dataset, catalogue, progress, validate)

        from llmrec.train import stage as training

        job = training.Job(recipe, number, catalogue, out / "tasks", stage.key, work, out, before, logs)
        return training.make(job, target, progress, validate)

    if elsewhere and not stage.is_made():
        elsewhere()
        if not stage.is_made():
            raise RunError(f"{folder} was not made, though its training ended well. See {out / launch.LOG}.")
    output = _made_together(stage, make)
    if together.is_first():
        shutil.rmtree(work, ignore_errors=True)
    return output


def _made_together(stage: Stage, make: Callable[[Path], dict[str, Any]]) -> str:
    """Make a stage that all processes work on and the first one writes; alone, `Stage.run`."""
    missing = not stage.is_made()
    together.wait()  # all have looked before one writes
    if together.is_first():
        stage.run(make)
    elif missing:
        make(stage.folder)
    together.wait()
    return made_hash(stage.folder)


def _validator(recipe: Recipe, number: int, out: Path, catalogue: Catalogue) -> Any:
    """What early stopping of a training stage measures; None where it has none."""
    from llmrec.evaluate.validation import validator

    settings = recipe.train[number - 1].validation
    if not settings.every:
        return None
    wide = isinstance(recipe.train[number - 1], Aligning)
    return validator(settings, recipe.evaluate, Dataset.load(out / "data"), catalogue, recipe.seed, wide)


def _share(progress: Callable[[float], None], before: int, stages: int, done: float) -> None:
    progress((before + done) / stages)


def _evaluate(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    trained = out / f"train-{len(recipe.train)}-{recipe.train[-1].method}"
    stage = judging.stage_of(recipe, out, trained, recipe.evaluate.target)
    hashes["evaluate"] = stage.run(lambda folder: judging.judge(recipe, out, trained, stage, folder, progress))


def _report(recipe: Recipe, out: Path, hashes: dict[str, str], progress: Callable[[float], None]) -> None:
    from llmrec.report import write_report

    write_report(out)


def trained_folder(out: Path) -> Path:
    """The folder of the last training stage of a run.

    Raises:
        RunError: nothing has been trained in it.
    """
    whole = trained_folders(out)
    if not whole:
        raise RunError(f"{out} holds no trained model. Make one with: llmrec run RECIPE --out {out}")
    return whole[-1]


_MAKERS = dict(zip(STAGES, (_data, _items, _catalogue, _tasks, _train, _evaluate, _report), strict=True))
