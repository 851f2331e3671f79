"""What a plan is made of: stages, what each reads, and what its maker is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmrec.recipe import ModelSpec, Prefer, Sft, Training
from llmrec.run.layout import RunFolder

Split = Literal["valid", "test"]
EngineName = Literal["transformers", "vllm"]
Kind = Literal["data", "items", "catalogue", "collaborative", "tasks", "train", "evaluate"]


@dataclass(frozen=True)
class Context:
    """What the maker of a stage is given.

    Attributes:
        run: the run folder; stages that the maker reads are whole.
        folder: to write into.
        work: for files that survive a kill.
        key: of the stage.
        seed: of the run.
        progress: called with the share done, 0 to 1.
        report_to: names of trackers of training; None for TensorBoard where it is installed.
        engine: what runs a language model that is evaluated.
    """

    run: RunFolder
    folder: Path
    work: Path
    key: str
    seed: int
    progress: Callable[[float], None]
    report_to: Sequence[str] | None = None
    engine: EngineName = "transformers"


@dataclass(frozen=True)
class Outside:
    """A file or folder outside of the run that a stage reads.

    Attributes:
        label: what made.json calls it; the same wherever the file lies.
        find: gives its path; called only when the stage is to be made, so a run is read where it is not.
    """

    label: str
    find: Callable[[], Path]


@dataclass(frozen=True)
class StageSpec:
    """One stage of a plan.

    Attributes:
        name: of its folder, below the run.
        kind: what kind of stage it is; `until` names these.
        version: of the code that makes it; raise it to make old results anew.
        config: what decides its result, as JSON.
        reads: stages, files of stages (`data/items.parquet`), and what lies outside of the run.
        make: fills a folder; returns facts for people.
    """

    name: str
    kind: Kind
    version: int
    config: Any
    reads: tuple[str | Outside, ...]
    make: Callable[[Context], dict[str, Any]]


def teacher_of(stage: Training) -> ModelSpec | None:
    """The collaborative model that a training stage needs; None where it needs none."""
    if isinstance(stage, Sft):
        return stage.teacher if stage.taught else None
    if isinstance(stage, Prefer):
        return stage.teacher if "teacher" in stage.rejected else None
    return stage.teacher if "teacher" in stage.rewards else None  # type: ignore[attr-defined]
