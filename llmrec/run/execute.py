"""Run recipes: make the stages of a plan in order, in one process or several, and evaluate trained runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmrec import resources
from llmrec.collaborative import refuse_too_large
from llmrec.contracts import Sizes
from llmrec.data import sources
from llmrec.errors import DataError, RunError
from llmrec.files import restore_replaced, write_text
from llmrec.recipe import Data, Evaluate, Launch, Recipe, Tasks, Training
from llmrec.recipe.tasks import CHOICES, RECOMMENDING
from llmrec.recipe_file import dump
from llmrec.run import launch
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import UNTIL, plan, up_to
from llmrec.run.run_lock import lock, refuse_below, refuse_foreign
from llmrec.run.stage import Context, EngineName, Split, StageSpec, require_current, resolve
from llmrec.stage_record import is_stage, read_record
from llmrec.train import distributed
from llmrec.train.log import chosen_trackers

Progress = Callable[[str, float], None]
"""Called with (kind of stage, share done from 0 to 1)."""


def _silent(kind: str, done: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class StageMaker:
    """Make the missing stages of a plan, in one process or as one of several training processes.

    Attributes:
        check_sizes: called after the data stage; refuses models that are too large for the data.
        train_in_children: runs all training stages in other processes; None to train in this process.
    """

    run: RunFolder
    seed: int
    launch: Launch
    progress: Progress
    check_sizes: Callable[[], None] = lambda: None
    train_in_children: Callable[[Callable[[float], None]], None] | None = None

    def make(self, specs: Sequence[StageSpec], until: str) -> None:
        """Make the stages of a plan up to the last one of a kind."""
        trains = until in ("train", "evaluate")
        for spec in up_to(specs, until):
            self.make_stage(spec, specs)
            if spec.kind == "data" and trains:
                self.check_sizes()
        if trains and distributed.is_main_process():
            planned = {self.run.stage(spec.name) for spec in specs}
            for folder in self.run.trained:  # remove models that the recipe no longer has
                if folder not in planned and is_stage(folder) and not folder.is_symlink():
                    shutil.rmtree(folder)

    def make_stage(self, spec: StageSpec, specs: Sequence[StageSpec]) -> None:
        """Make one stage if it is missing or outdated."""
        same = [other.name for other in specs if other.kind == spec.kind]

        def progress(done: float, limit: float = 0.999) -> None:
            self.progress(spec.kind, min((same.index(spec.name) + done) / len(same), limit))

        progress(0.0)
        if spec.kind == "train":
            self._train(spec, progress)
        else:
            with distributed.main_process_first():  # the first process makes it, the others find it
                stage = resolve(self.run, spec, self.seed)
                if not stage.is_made():
                    stage.make(partial(self._fill, spec, stage.key, progress))
                    self._remove_work(spec)
        progress(1.0, 1.0)

    def _train(self, spec: StageSpec, progress: Callable[[float], None]) -> None:
        """Make a training stage: all processes train, the first one writes."""
        stage = resolve(self.run, spec, self.seed)
        made = stage.is_made()
        distributed.barrier()  # all processes have checked before one writes
        if not made and self.train_in_children:
            self.train_in_children(progress)
            if not stage.is_made():
                raise RunError(f"{stage.folder} was not made, but training ended without an error. See {self.run.log}.")
        elif not made and distributed.is_main_process():
            stage.make(partial(self._fill, spec, stage.key, progress))
        elif not made:
            self._fill(spec, stage.key, progress, stage.folder)
        distributed.barrier()
        if distributed.is_main_process():
            self._remove_work(spec)

    def _fill(self, spec: StageSpec, key: str, progress: Callable[[float], None], folder: Path) -> dict[str, Any]:
        work = self.run.work / spec.name
        return spec.make(Context(self.run, folder, work, key, self.seed, progress, self.launch.report_to))

    def _remove_work(self, spec: StageSpec) -> None:
        shutil.rmtree(self.run.work / spec.name, ignore_errors=True)


def run(recipe: Recipe, out: Path, until: str = "evaluate", progress: Progress = _silent) -> Path:
    """Run a recipe into a folder and return the folder; resume an interrupted run.

    Args:
        out: the run folder.
        until: the last kind of stage, one of `UNTIL`.

    Raises:
        LlmrecError: a stage fails.
        RunError: the folder is in use, cannot be written, or is not a run.
    """
    trains = UNTIL.index(until) >= UNTIL.index("train")
    if trains:
        resources.require_extras("train")
    if distributed.world_size() > 1:
        raise RunError(
            "several processes run the same recipe. Start them with `llmrec train`, which distributes the training, "
            "or start one process and set `launch: {processes: N}` in the recipe."
        )
    if trains:
        _check_training(recipe.train, recipe.tasks, recipe.launch.report_to, recipe.launch.processes)
        launch.check(recipe.launch)
    folder = check_folder(out, recipe.data, recipe.read_paths)
    if recipe.launch.node_rank:
        launch.train(recipe.launch, folder, lambda done: progress("train", done))  # node 0 does the rest
        return folder.path
    with lock(folder) as held:
        _begin(folder, dump(recipe), plan(recipe))
        check = partial(_check_sizes, folder, recipe.train, recipe.tasks, recipe.evaluate)
        train_in_children = (
            None if recipe.launch.single_process else lambda tell: launch.train(recipe.launch, folder, tell, held)
        )
        StageMaker(folder, recipe.seed, recipe.launch, progress, check, train_in_children).make(plan(recipe), until)
    return folder.path


def train(recipe: Recipe, out: Path, progress: Progress = _silent) -> Path:
    """Run the training stages of a recipe and the missing stages before them; arguments as `run`.

    Each of the processes of `accelerate launch` calls this; the first one makes and writes everything but training.
    """
    held = os.environ.get(launch.HELD) == os.path.realpath(out)  # the parent process holds the lock
    if distributed.world_size() == 1 and not held:
        return run(recipe, out, "train", progress)
    resources.require_extras("train")
    _check_training(recipe.train, recipe.tasks, recipe.launch.report_to, distributed.world_size())
    folder = RunFolder(out.absolute()) if held else check_folder(out, recipe.data, recipe.read_paths)
    distributed.init()
    first = distributed.is_main_process() and not held
    with lock(folder) if first else contextlib.nullcontext():
        if first:
            _begin(folder, dump(recipe), plan(recipe))
        check = partial(_check_sizes, folder, recipe.train, recipe.tasks, recipe.evaluate)
        StageMaker(folder, recipe.seed, recipe.launch, progress, check).make(plan(recipe), "train")
    return folder.path


def _begin(folder: RunFolder, recipe: str, specs: Sequence[StageSpec]) -> None:
    """Write the recipe of a run and clean up after a killed process: remove partial files, restore old stages."""
    for left in folder.path.glob(f".{folder.recipe.name}.*"):
        left.unlink()
    write_text(folder.recipe, recipe)
    for spec in specs:
        restore_replaced(folder.stage(spec.name), is_stage)


def judge(
    recipe: Recipe,
    out: Path,
    stage: StageSpec,
    progress: Progress = _silent,
    aside: tuple[Path, EngineName] | None = None,
) -> Path:
    """Evaluate the trained model of a run by an evaluation stage, which may be of another split, and return its folder.

    Nothing is trained, but missing collaborative models of the evaluation are fitted.

    Args:
        out: the run folder.
        stage: the evaluation stage of a plan.
        aside: an empty folder for the figures and an engine; the run is then not changed. None: store in the run.

    Raises:
        LlmrecError: a stage fails.
        RunError: the run is in use, is not trained, or has stages of two recipes.
    """
    run, stages = RunFolder(out.absolute()), plan(recipe)
    maker = StageMaker(run, recipe.seed, recipe.launch, progress)
    read = {name for spec in stages if spec.kind == "train" for name in spec.reads}
    with lock(run):
        needed = [spec for spec in stages if spec.kind not in ("collaborative", "evaluate") or spec.name in read]
        require_current(run, needed, recipe.seed)
        _check_sizes(run, recipe.train, recipe.tasks, recipe.evaluate)
        for spec in stages:
            if spec.kind == "collaborative":
                maker.make_stage(spec, stages)
        if not aside:
            maker.make_stage(stage, [stage])
            return run.stage(stage.name)
    folder, engine = aside
    stage.make(Context(run, folder, folder, "", recipe.seed, partial(progress, stage.kind), engine=engine))
    return folder


def evaluate_run(
    path: Path, split: Split | None, beams: int | None, engine: str, progress: Progress = _silent
) -> dict[str, Any]:
    """Return the figures of a run on a split; they are kept in the run unless `beams` or the engine differs.

    Args:
        split: that of the recipe if None.
        beams: that of the recipe if None.
        engine: transformers or vllm.

    Raises:
        RunError: as `judge`, or the run keeps its test part closed.
    """
    from llmrec.decode.generative import parse_engine
    from llmrec.evaluate.files import read_evaluation

    recipe, name = recipe_of(path), parse_engine(engine)
    if split == "test" and recipe.evaluate.split == "valid":
        raise RunError(
            f"{path} is evaluated on validation (evaluate.split: valid) and keeps its test part closed. Open it with "
            f"`llmrec evaluate {path} --test`, which is recorded in the ledger."
        )
    split = split or recipe.evaluate.split
    if beams is None and name == "transformers":
        return read_evaluation(judge(recipe, path, plan(recipe, split)[-1], progress))
    changed = recipe_of(path, [f"evaluate.split={split}", *([] if beams is None else [f"evaluate.beams={beams}"])])
    with tempfile.TemporaryDirectory() as folder:
        return read_evaluation(judge(changed, path, plan(changed)[-1], progress, (Path(folder), name)))


def _check_sizes(run: RunFolder, train: Sequence[Training], tasks: Tasks, judged: Evaluate) -> None:
    """Refuse collaborative models that do not fit into memory, before anything is trained."""
    facts = read_record(run.data)["facts"]
    sizes = Sizes(facts["users"], facts["items"], facts["interactions"])
    for number, stage in enumerate(train):
        if teacher := stage.needed_teacher:
            refuse_too_large([teacher], sizes, where=f"train.{number}.teacher")
    if tasks.recommending:  # otherwise there are no baselines
        refuse_too_large(judged.baselines, sizes, where="evaluate.baselines")
        if judged.ensemble:
            refuse_too_large([judged.ensemble.model], sizes, where="evaluate.ensemble.model")


def _check_training(
    train: Sequence[Training], tasks: Tasks, trackers_named: Sequence[str] | None, processes: int
) -> None:
    """Check the settings of training before the first stage is made."""
    chosen_trackers(trackers_named)
    _check_tasks(train, tasks)
    for number, stage in enumerate(train):
        try:
            stage.pass_rows(processes)
        except ValueError as error:
            raise RunError(f"train.{number}.{error}.") from None


def _check_tasks(train: Sequence[Training], tasks: Tasks) -> None:
    """Refuse tasks that cannot be evaluated, and stages that need a task that recommends."""
    wanted = " or ".join(f"tasks.{task}=1" for task in RECOMMENDING)
    if tasks.recommending:
        return
    if not tasks.choices:
        raise RunError(
            f"none of the tasks ({', '.join(tasks.weights) or 'all have weight 0'}) predicts an item, so "
            "the model would be evaluated and served with a prompt that it never saw. Give a task that recommends a "
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
    """Return the run folder if a run may be written there and no input of the recipe is inside it.

    Args:
        named: recipe key → file or folder (`Recipe.read_paths`).

    Raises:
        RunError: as `run_lock.refuse_foreign` and `run_lock.refuse_below`.
    """
    run = RunFolder(out.absolute())  # DuckDB and Arrow interpret ~ and colons
    refuse_foreign(run)
    refuse_below(named.items(), run.path)
    with contextlib.suppress(DataError):  # the data stage reports missing files
        files = sources.source_files(data)
        refuse_below(((f"data.source: {data.source}", path) for _, path in files), run.path)
    return run
