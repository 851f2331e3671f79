"""Making a run: the stages of its plan one after another, alone or in several training processes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmrec import extras
from llmrec.data import sources
from llmrec.errors import DataError, RunError
from llmrec.files import put_back, write_text
from llmrec.made import is_stage
from llmrec.recipe import Launch, Recipe
from llmrec.recipe.tasks import CHOICES, RECOMMENDING
from llmrec.recipe_file import dump
from llmrec.run import launch, memory
from llmrec.run.layout import RunFolder
from llmrec.run.ownership import lock, refuse_below, refuse_foreign
from llmrec.run.plan import evaluation, plan
from llmrec.run.specs import Context, EngineName, StageSpec
from llmrec.run.status import require_current
from llmrec.run.status import stage as resolve
from llmrec.train import together, trackers

Progress = Callable[[str, float], None]
"""(kind of stage, share done from 0 to 1), called while stages are made."""
UNTIL = ("data", "items", "catalogue", "tasks", "train", "evaluate")


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
    extras.need(*(["train"] if _reaches(until, "train") else []))
    if together.world() > 1:
        raise RunError(
            "several processes run one recipe here. Start them on `llmrec train`, which shares the work between them, "
            "or start one and say `launch: {processes: N}` in the recipe."
        )
    if _reaches(until, "train"):
        _check_training(recipe, recipe.launch.processes)
        launch.check(recipe.launch)
    folder = check_folder(recipe, out)
    if recipe.launch.rank:
        launch.train(recipe.launch, folder, lambda done: progress("train", done))  # machine 0 does all the rest
        return folder.path
    with lock(folder) as held:
        _begin(folder, recipe)
        elsewhere = None if recipe.launch.alone else lambda tell: launch.train(recipe.launch, folder, tell, held)
        _maker(folder, recipe, progress, elsewhere).make(plan(recipe), until)
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
    _check_training(recipe, together.world())
    folder = RunFolder(out.absolute()) if held else check_folder(recipe, out)
    together.begin()
    first = together.is_first() and not held
    with lock(folder) if first else contextlib.nullcontext():
        if first:
            _begin(folder, recipe)
        _maker(folder, recipe, progress).make(plan(recipe), "train")
    return folder.path


def _begin(folder: RunFolder, recipe: Recipe) -> None:
    """Write the recipe of a run, and put back what a killed process was about to replace."""
    write_text(folder.recipe, dump(recipe))
    for spec in plan(recipe):
        put_back(folder.stage(spec.name), is_stage)


def judge(recipe: Recipe, out: Path, stage: StageSpec, progress: Progress = _silent) -> Path:
    """Judge the trained model of a run by a stage that need not be its recipe's own, such as that of another split.

    Nothing is trained; collaborative models that the evaluation reads are fitted where they are missing.

    Args:
        recipe: of the run.
        out: the run folder.
        stage: see `plan.evaluation`.
        progress: called while stages are made.

    Returns:
        The folder of the evaluation.

    Raises:
        LlmrecError: see the stages.
        RunError: the run is in use, is not trained, or holds stages of two recipes.
    """
    run = RunFolder(out.absolute())
    with lock(run):
        _fit_models(run, recipe, progress).make_stage(stage, [stage])
    return run.stage(stage.name)


def judge_into(
    target: Path, recipe: Recipe, out: Path, engine: EngineName = "transformers", progress: Progress = _silent
) -> None:
    """Judge the trained model of a run otherwise than its recipe says; the run keeps the figures that it has.

    Args:
        target: an empty folder, for the figures.
        recipe: of the run, with another `evaluate`.
        out: the run folder.
        engine: what runs the language model.
        progress: called while stages are made.

    Raises:
        LlmrecError: see the stages.
        RunError: as of `judge`.
    """
    run, judged = RunFolder(out.absolute()), evaluation(recipe, recipe.evaluate.target)
    with lock(run):
        _fit_models(run, recipe, progress)
    judged.make(Context(run, target, target, "", recipe.seed, partial(progress, judged.kind), engine=engine))


def _fit_models(run: RunFolder, recipe: Recipe, progress: Progress) -> _Maker:
    """Fit the collaborative models of a recipe that are missing, if the training of its run is finished."""
    stages, maker = plan(recipe), _maker(run, recipe, progress)
    read = {name for spec in stages if spec.kind == "train" for name in spec.reads}
    needed = [spec for spec in stages if spec.kind not in ("collaborative", "evaluate") or spec.name in read]
    require_current(run, needed, recipe.seed)
    maker.check_sizes()
    for spec in stages:
        if spec.kind == "collaborative":
            maker.make_stage(spec, stages)
    return maker


@dataclass(frozen=True)
class _Maker:
    """Makes the stages of a plan that are not made yet.

    Attributes:
        run: the run folder.
        seed: of the recipe.
        launch: how training is carried out.
        progress: called while stages are made.
        check_sizes: called when the data are made; refuses what they are too large for.
        elsewhere: makes all training stages in other processes; None where this one does.
    """

    run: RunFolder
    seed: int
    launch: Launch
    progress: Progress
    check_sizes: Callable[[], None]
    elsewhere: Callable[[Callable[[float], None]], None] | None = None

    def make(self, specs: Sequence[StageSpec], until: str) -> None:
        """Make the stages of a plan, up to the last one of a kind."""
        last = max(place for place, spec in enumerate(specs) if _reaches(until, spec.kind))
        for spec in specs[: last + 1]:
            self.make_stage(spec, specs)
            if spec.kind == "data" and _reaches(until, "train"):
                self.check_sizes()
        if _reaches(until, "train") and together.is_first():
            self._remove_unplanned(specs)

    def make_stage(self, spec: StageSpec, specs: Sequence[StageSpec]) -> None:
        """Make one stage of several, if it is not made yet."""
        self.progress(spec.kind, _begun(spec, specs))
        tell = partial(self._tell, spec, specs)
        if spec.kind == "train":
            self._train(spec, tell)
        else:
            with together.in_turn():  # the first process makes it, the others find it made
                self._make(spec, tell)
        self.progress(spec.kind, _begun(spec, specs, 1.0))

    def _make(self, spec: StageSpec, tell: Callable[[float], None]) -> None:
        stage = resolve(self.run, spec, self.seed)
        if not stage.is_made():
            stage.make(partial(self._fill, spec, stage.key, tell))
            shutil.rmtree(self._work(spec), ignore_errors=True)

    def _train(self, spec: StageSpec, tell: Callable[[float], None]) -> None:
        """Make a training stage, on which all processes work and which the first one writes."""
        stage = resolve(self.run, spec, self.seed)
        made = stage.is_made()
        together.wait()  # all have looked before one writes
        if not made and self.elsewhere:
            self.elsewhere(tell)
            if not stage.is_made():
                raise RunError(f"{stage.folder} was not made, though its training ended well. See {self.run.log}.")
        elif not made and together.is_first():
            stage.make(partial(self._fill, spec, stage.key, tell))
        elif not made:
            self._fill(spec, stage.key, tell, stage.folder)
        together.wait()
        if together.is_first():
            shutil.rmtree(self._work(spec), ignore_errors=True)

    def _fill(self, spec: StageSpec, key: str, tell: Callable[[float], None], folder: Path) -> dict[str, Any]:
        work, names = self._work(spec), self.launch.report_to
        return spec.make(Context(self.run, folder, work, key, self.seed, tell, names))

    def _tell(self, spec: StageSpec, specs: Sequence[StageSpec], done: float) -> None:
        self.progress(spec.kind, min(_begun(spec, specs, done), 0.999))

    def _work(self, spec: StageSpec) -> Path:
        return self.run.work / spec.name

    def _remove_unplanned(self, specs: Sequence[StageSpec]) -> None:
        """Remove trained models that the recipe no longer names, now that those that it names are whole."""
        planned = {self.run.stage(spec.name) for spec in specs}
        for folder in self.run.trained:
            if folder not in planned and is_stage(folder) and not folder.is_symlink():
                shutil.rmtree(folder)


def _maker(
    run: RunFolder,
    recipe: Recipe,
    progress: Progress,
    elsewhere: Callable[[Callable[[float], None]], None] | None = None,
) -> _Maker:
    check_sizes = partial(memory.refuse_too_large, run, recipe)
    return _Maker(run, recipe.seed, recipe.launch, progress, check_sizes, elsewhere)


def _reaches(until: str, kind: str) -> bool:
    return kind in UNTIL and UNTIL.index(until) >= UNTIL.index(kind)


def _begun(spec: StageSpec, specs: Sequence[StageSpec], done: float = 0.0) -> float:
    """The share of all stages of a kind that is done, when this share of one of them is."""
    same = [one.name for one in specs if one.kind == spec.kind]
    return (same.index(spec.name) + done) / len(same)


def _check_training(recipe: Recipe, processes: int) -> None:
    """Refuse now what training would refuse after everything before it is made."""
    trackers.chosen(recipe.launch.report_to)
    _check_tasks(recipe)
    for number, stage in enumerate(recipe.train):
        try:
            stage.pass_rows(processes)
        except ValueError as error:
            raise RunError(f"train.{number}.{error}.") from None


def _check_tasks(recipe: Recipe) -> None:
    """Refuse tasks that nothing could be judged by, and stages that need a task which recommends."""
    tasks, wanted = recipe.tasks, " or ".join(f"tasks.{task}=1" for task in RECOMMENDING)
    if tasks.recommending:
        return
    if not tasks.choices:
        raise RunError(
            f"none of the tasks ({', '.join(tasks.weights) or 'all have weight 0'}) goes from a history to an item, so "
            "the model would be judged and served with a prompt that it never saw. Give a task that recommends a "
            f"weight ({wanted}), or one with few possible answers ({', '.join(CHOICES)})."
        )
    for number, stage in enumerate(recipe.train):
        if stage.method != "sft" or stage.validation.every:
            raise RunError(
                f"train.{number}{'' if stage.method != 'sft' else '.validation'} needs recommendations, but the tasks "
                f"({', '.join(tasks.weights)}) train the model to choose from few possible answers only. Add a task "
                f"that recommends: {wanted}"
            )


def check_folder(recipe: Recipe, out: Path) -> RunFolder:
    """The run folder, if a run may be written there and nothing that the recipe reads lies in it.

    Args:
        recipe: of the run.
        out: the folder, made or not.

    Raises:
        RunError: see `ownership`.
    """
    run = RunFolder(out.absolute())  # DuckDB and Arrow take ~ for a home, and a colon for an address
    refuse_foreign(run)
    named = {"data.interactions": recipe.data.interactions, "data.items": recipe.data.items}
    named |= {"model.base": recipe.model.base, "model.from": recipe.model.start}
    named |= {"tasks.oracle.cache": recipe.tasks.oracle.cache} if recipe.tasks.oracle else {}
    refuse_below(((key, path) for key, path in named.items() if path), run.path)
    with contextlib.suppress(DataError):  # what is missing is told by the stage that reads it
        given = sources.given(recipe.data)
        refuse_below(((f"data.source: {recipe.data.source}", path) for _, path in given), run.path)
    return run
