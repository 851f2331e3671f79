"""Makes the stages of a plan that are not made yet, alone or as one of several training processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmrec.errors import RunError
from llmrec.made import is_stage
from llmrec.recipe import Launch
from llmrec.run.layout import RunFolder
from llmrec.run.specs import Context, StageSpec
from llmrec.run.status import stage as resolve
from llmrec.train import together

Progress = Callable[[str, float], None]
"""(kind of stage, share done from 0 to 1), called while stages are made."""
UNTIL = ("data", "items", "catalogue", "tasks", "train", "evaluate")


@dataclass(frozen=True)
class StageMaker:
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
    check_sizes: Callable[[], None] = lambda: None
    elsewhere: Callable[[Callable[[float], None]], None] | None = None

    def make(self, specs: Sequence[StageSpec], until: str) -> None:
        """Make the stages of a plan, up to the last one of a kind."""
        last = max(place for place, spec in enumerate(specs) if reaches(until, spec.kind))
        for spec in specs[: last + 1]:
            self.make_stage(spec, specs)
            if spec.kind == "data" and reaches(until, "train"):
                self.check_sizes()
        if reaches(until, "train") and together.is_first():
            self._remove_unplanned(specs)

    def make_stage(self, spec: StageSpec, specs: Sequence[StageSpec]) -> None:
        """Make one stage of several, if it is not made yet."""
        self.progress(spec.kind, _begun(spec, specs))
        progress = partial(self._show, spec, specs)
        if spec.kind == "train":
            self._train(spec, progress)
        else:
            with together.in_turn():  # the first process makes it, the others find it made
                self._make(spec, progress)
        self.progress(spec.kind, _begun(spec, specs, 1.0))

    def _make(self, spec: StageSpec, progress: Callable[[float], None]) -> None:
        stage = resolve(self.run, spec, self.seed)
        if not stage.is_made():
            stage.make(partial(self._fill, spec, stage.key, progress))
            shutil.rmtree(self._work(spec), ignore_errors=True)

    def _train(self, spec: StageSpec, progress: Callable[[float], None]) -> None:
        """Make a training stage, on which all processes work and which the first one writes."""
        stage = resolve(self.run, spec, self.seed)
        made = stage.is_made()
        together.wait()  # all have looked before one writes
        if not made and self.elsewhere:
            self.elsewhere(progress)
            if not stage.is_made():
                raise RunError(f"{stage.folder} was not made, though its training ended well. See {self.run.log}.")
        elif not made and together.is_first():
            stage.make(partial(self._fill, spec, stage.key, progress))
        elif not made:
            self._fill(spec, stage.key, progress, stage.folder)
        together.wait()
        if together.is_first():
            shutil.rmtree(self._work(spec), ignore_errors=True)

    def _fill(self, spec: StageSpec, key: str, progress: Callable[[float], None], folder: Path) -> dict[str, Any]:
        work, names = self._work(spec), self.launch.report_to
        return spec.make(Context(self.run, folder, work, key, self.seed, progress, names))

    def _show(self, spec: StageSpec, specs: Sequence[StageSpec], done: float) -> None:
        self.progress(spec.kind, min(_begun(spec, specs, done), 0.999))

    def _work(self, spec: StageSpec) -> Path:
        return self.run.work / spec.name

    def _remove_unplanned(self, specs: Sequence[StageSpec]) -> None:
        """Remove trained models that the recipe no longer names, now that those that it names are whole."""
        planned = {self.run.stage(spec.name) for spec in specs}
        for folder in self.run.trained:
            if folder not in planned and is_stage(folder) and not folder.is_symlink():
                shutil.rmtree(folder)


def reaches(until: str, kind: str) -> bool:
    """Whether a run that goes until a kind of stage makes stages of another kind."""
    return kind in UNTIL and UNTIL.index(until) >= UNTIL.index(kind)


def _begun(spec: StageSpec, specs: Sequence[StageSpec], done: float = 0.0) -> float:
    """The share of all stages of a kind that is done, when this share of one of them is."""
    same = [one.name for one in specs if one.kind == spec.kind]
    return (same.index(spec.name) + done) / len(same)
