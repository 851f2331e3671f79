"""Training jobs of stages that a test makes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.recipe import Recipe
from llmrec.run.layout import RunFolder
from llmrec.train.job import TrainJob


def job_of(recipe: Recipe, run: Path, work: Path, **changes: Any) -> TrainJob:
    """The job of a recipe's first training stage in a run whose earlier stages are made."""
    folder, stage = RunFolder(run), recipe.train[0]
    values: dict[str, Any] = {
        "stage": stage,
        "number": 1,
        "model": recipe.model,
        "tasks": recipe.tasks,
        "seed": recipe.seed,
        "exclude_seen": recipe.evaluate.exclude_seen,
        "data": folder.data,
        "items": folder.items,
        "catalogue": folder.catalogue,
        "tasks_folder": folder.tasks,
        "previous": None,
        "key": "key",
        "work": work,
    }
    return TrainJob(**values | changes)
