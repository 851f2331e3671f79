"""Whether a run folder holds what its recipe says; one that was stopped on its way to another holds some of each.

`llmrec run` makes anew what is stale. What only reads a run, and tells others of its figures, refuses it here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.checked import check_file
from llmrec.errors import RunError
from llmrec.files import hash_file
from llmrec.recipe import Recipe
from llmrec.recipe_file import without_places
from llmrec.run_files import MADE, read_made


def refuse_stale(recipe: Recipe, run: Path) -> dict[str, str]:
    """See that every stage until the last training was made of this recipe, and of what lies there now.

    Args:
        recipe: of the run.
        run: the run folder.

    Returns:
        Stage → hash of its files.

    Raises:
        RunError: a stage is missing, or of another recipe, seed or input.
    """
    plain = {"data": without_places(recipe).data, "items": recipe.items}
    plain |= {"catalogue": recipe.indexing, "tasks": recipe.tasks}
    said: dict[str, Any] = {name: part.model_dump(mode="json") for name, part in plain.items()}
    for number, part in enumerate(recipe.train, 1):
        train, model = part.model_dump(mode="json"), recipe.model.model_dump(mode="json")
        said[f"train-{number}-{part.method}"] = {"model": model, "train": train, "history": recipe.tasks.history}
    hashes: dict[str, str] = {}
    for name, one in said.items():
        given = dict(hashes)
        if name in ("items", "catalogue"):
            check_file(run / "data" / "items.parquet")
            given |= {"items" if name == "items" else "table": hash_file(run / "data" / "items.parquet")}
        hashes[name] = refuse_stale_stage(run / name, one, given, recipe.seed)
        if name.startswith("train-"):
            hashes["previous"] = hashes[name]
    return hashes


def refuse_stale_stage(folder: Path, said: Any, given: dict[str, str], seed: int) -> str:
    """See that a stage was made of a part of a recipe and of inputs; its hash.

    Settings that only one side knows are of another version of llmrec, and count as equal.

    Args:
        folder: of the stage.
        said: the recipe's part, as the stage wrote it down.
        given: input → its hash now; inputs that are not among these are not looked at.
        seed: of the run.

    Raises:
        RunError: it was not.
    """
    if not (folder / MADE).is_file():
        raise RunError(f"{folder} is not made. Finish the run with: llmrec run RECIPE --out {folder.parent}")
    made = read_made(folder)
    others = [name for name, value in made["inputs"].items() if given.get(name, value) != value]
    if not _agree(made["recipe"], said) or made["seed"] != seed or others:
        what = f"from another {others[0]}" if others else "by another recipe or seed"
        raise RunError(
            f"{folder} was made {what} than the run holds now, as when a run with changes was stopped on its way. "
            f"Finish it, or go back to the recipe of before, with: llmrec run RECIPE --out RUN"
        )
    return made["output"]


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    return bool(one == other)
