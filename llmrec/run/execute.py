"""Making a run: the stages of its plan one after another, alone or in several training processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from llmrec import extras
from llmrec.data import sources
from llmrec.errors import DataError, RunError
from llmrec.files import put_back, write_text
from llmrec.made import is_stage
from llmrec.recipe import Data, Recipe, Tasks, Training
from llmrec.recipe.tasks import CHOICES, RECOMMENDING
from llmrec.recipe_file import dump
from llmrec.run import launch, memory
from llmrec.run.layout import RunFolder
from llmrec.run.making import Progress, StageMaker, reaches
from llmrec.run.ownership import lock, refuse_below, refuse_foreign
from llmrec.run.plan import plan
from llmrec.run.specs import Context, EngineName, StageSpec
from llmrec.run.status import require_current
from llmrec.train import together, trackers


def _silent(kind: str, done: float) -> None:
    """No progress is shown."""


def run(recipe: Recipe, out: Path, until: str = "evaluate", progress: Progress = _silent) -> Path:
    """Run a recipe into a folder, going on where an earlier run of it stopped.

    Args:
        recipe: what to do.
        out: the run folder.
        until: the last kind of stage wanted, one of `UNTIL`.
        progress: called while stages are made.

    Returns:
        The run folder.

    Raises:
        LlmrecError: see the stages.
        RunError: the folder is in use, cannot be written, or is no run's.
    """
    extras.need(*(["train"] if reaches(until, "train") else []))
    if together.world() > 1:
        raise RunError(
            "several processes run one recipe here. Start them on `llmrec train`, which shares the work between them, "
            "or start one and say `launch: {processes: N}` in the recipe."
        )
    if reaches(until, "train"):
        _check_training(recipe.train, recipe.tasks, recipe.launch.report_to, recipe.launch.processes)
        launch.check(recipe.launch)
    folder = check_folder(out, recipe.data, recipe.read_paths)
    if recipe.launch.rank:
        launch.train(recipe.launch, folder, lambda done: progress("train", done))  # machine 0 does all the rest
        return folder.path
    with lock(folder) as held:
        _begin(folder, dump(recipe), plan(recipe))
        check = partial(memory.refuse_too_large, folder, recipe.train, recipe.tasks, recipe.evaluate)
        elsewhere = None if recipe.launch.alone else lambda tell: launch.train(recipe.launch, folder, tell, held)
        StageMaker(folder, recipe.seed, recipe.launch, progress, check, elsewhere).make(plan(recipe), until)
    return folder.path


def train(recipe: Recipe, out: Path, progress: Progress = _silent) -> Path:
    """The training stages alone, and what they need where it is missing.

    Of several processes that `accelerate launch` started each calls this; they share the training, and the first one
    makes and writes everything else.

    Args:
        recipe: what to do.
        out: the run folder, which all processes see.
        progress: called while stages are made.

    Returns:
        The run folder.

    Raises:
        LlmrecError: see the stages.
        RunError: the folder is in use, cannot be written, or is no run's.
    """
    held = os.environ.get(launch.HELD) == os.path.realpath(out)  # by the process that started this one
    if together.world() == 1 and not held:
        return run(recipe, out, "train", progress)
    extras.need("train")
    _check_training(recipe.train, recipe.tasks, recipe.launch.report_to, together.world())
    folder = RunFolder(out.absolute()) if held else check_folder(out, recipe.data, recipe.read_paths)
    together.begin()
    first = together.is_first() and not held
    with lock(folder) if first else contextlib.nullcontext():
        if first:
            _begin(folder, dump(recipe), plan(recipe))
        check = partial(memory.refuse_too_large, folder, recipe.train, recipe.tasks, recipe.evaluate)
        StageMaker(folder, recipe.seed, recipe.launch, progress, check).make(plan(recipe), "train")
    return folder.path


def _begin(folder: RunFolder, recipe: str, specs: Sequence[StageSpec]) -> None:
    """Write the recipe of a run; what a killed process left of one goes, what it was about to replace is put back."""
    for left in folder.path.glob(f".{folder.recipe.name}.*"):
        left.unlink()
    write_text(folder.recipe, recipe)
    for spec in specs:
        put_back(folder.stage(spec.name), is_stage)


def judge(
    recipe: Recipe,
    out: Path,
    stage: StageSpec,
    progress: Progress = _silent,
    aside: tuple[Path, EngineName] | None = None,
) -> Path:
    """Judge the trained model of a run by a stage that need not be its recipe's own, such as that of another split.

    Nothing is trained; collaborative models that the evaluation reads are fitted where they are missing.

    Args:
        recipe: of the run.
        out: the run folder.
        stage: the last one of a plan.
        progress: called while stages are made.
        aside: an empty folder for the figures, and the engine that runs the language model; the run keeps the figures
            that it has. None to make the stage in the run.

    Returns:
        The folder of the evaluation.

    Raises:
        LlmrecError: see the stages.
        RunError: the run is in use, is not trained, or holds stages of two recipes.
    """
    run, stages = RunFolder(out.absolute()), plan(recipe)
    maker = StageMaker(run, recipe.seed, recipe.launch, progress)
    read = {name for spec in stages if spec.kind == "train" for name in spec.reads}
    with lock(run):
        needed = [spec for spec in stages if spec.kind not in ("collaborative", "evaluate") or spec.name in read]
        require_current(run, needed, recipe.seed)
        memory.refuse_too_large(run, recipe.train, recipe.tasks, recipe.evaluate)
        for spec in stages:
            if spec.kind == "collaborative":
                maker.make_stage(spec, stages)
        if not aside:
            maker.make_stage(stage, [stage])
            return run.stage(stage.name)
    folder, engine = aside
    stage.make(Context(run, folder, folder, "", recipe.seed, partial(progress, stage.kind), engine=engine))
    return folder


def _check_training(
    train: Sequence[Training], tasks: Tasks, trackers_named: Sequence[str] | None, processes: int
) -> None:
    """Refuse now what training would refuse after everything before it is made."""
    trackers.chosen(trackers_named)
    _check_tasks(train, tasks)
    for number, stage in enumerate(train):
        try:
            stage.pass_rows(processes)
        except ValueError as error:
            raise RunError(f"train.{number}.{error}.") from None


def _check_tasks(train: Sequence[Training], tasks: Tasks) -> None:
    """Refuse tasks that nothing could be judged by, and stages that need a task which recommends."""
    wanted = " or ".join(f"tasks.{task}=1" for task in RECOMMENDING)
    if tasks.recommending:
        return
    if not tasks.choices:
        raise RunError(
            f"none of the tasks ({', '.join(tasks.weights) or 'all have weight 0'}) goes from a history to an item, so "
            "the model would be judged and served with a prompt that it never saw. Give a task that recommends a "
            f"weight ({wanted}), or one with few possible answers ({', '.join(CHOICES)})."
        )
    for number, stage in enumerate(train):
        if stage.method != "sft" or stage.validation.every:
            raise RunError(
                f"train.{number}{'' if stage.method != 'sft' else '.validation'} needs recommendations, but the tasks "
                f"({', '.join(tasks.weights)}) train the model to choose from few possible answers only. Add a task "
                f"that recommends: {wanted}"
            )


def check_folder(out: Path, data: Data, named: Mapping[str, str]) -> RunFolder:
    """The run folder, if a run may be written there and nothing that the recipe reads lies in it.

    Args:
        out: the folder, made or not.
        data: of the recipe.
        named: key of the recipe → file or folder that it names (`Recipe.read_paths`).

    Raises:
        RunError: see `ownership`.
    """
    run = RunFolder(out.absolute())  # DuckDB and Arrow take ~ for a home, and a colon for an address
    refuse_foreign(run)
    refuse_below(named.items(), run.path)
    with contextlib.suppress(DataError):  # what is missing is told by the stage that reads it
        given = sources.given(data)
        refuse_below(((f"data.source: {data.source}", path) for _, path in given), run.path)
    return run
