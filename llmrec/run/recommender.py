"""What a run recommends by, as a description that `decode/opened` opens; the same as an export has in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.collaborative.probabilities import TOP_K
from llmrec.decode.opened import FILE, Description, read_description
from llmrec.errors import RunError
from llmrec.recipe import Recipe
from llmrec.recipe_file import recipe_of
from llmrec.run.layout import CATALOGUE, RunFolder, collaborative_name, model_of, training_name
from llmrec.run.plan import plan
from llmrec.run.status import require_current


def is_export(folder: Path) -> bool:
    """Whether a folder is an export, not a run."""
    return (folder / FILE).is_file()


def describe(folder: Path) -> Description:
    """What the recommender of a run or of an export is made of.

    Raises:
        RunError: there is no such folder, nothing is trained in the run, or it holds stages of two recipes.
        ModelError: the description of an export is damaged.
    """
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}. Make a run with: llmrec run quickstart --out {folder}")
    if is_export(folder):
        return read_description(folder)
    run = RunFolder(folder)
    run.require_run()
    recipe = recipe_of(folder)
    run.last_trained  # noqa: B018  # raises where nothing is trained
    description = description_of(recipe, run.path.resolve().name)
    read = {node["folder"] for node in nodes(description["recommender"]) if "folder" in node}
    needed = [spec for spec in plan(recipe) if spec.kind in ("data", "items", "catalogue", "tasks", "train")]
    needed += [spec for spec in plan(recipe) if spec.kind == "collaborative" and spec.name in read]
    require_current(run, needed, recipe.seed)
    return description


def description_of(recipe: Recipe, name: str) -> Description:
    """What the recommender of a recipe is made of; folders are below the run's.

    Args:
        recipe: of the run.
        name: of the run.
    """
    settings = recipe.evaluate
    trained = training_name(len(recipe.train), recipe.train[-1].method)
    node: dict[str, Any] = {
        "kind": "generative",
        "folder": model_of(Path(trained)).as_posix(),
        "beams": settings.beams,
    }
    if settings.blend:
        teacher = {
            "kind": "collaborative",
            "folder": collaborative_name(settings.blend.teacher.slug),
            "items": CATALOGUE,
        }
        members = [
            {"weight": 1 - settings.blend.share, "depth": settings.beams, "recommender": node},
            {"weight": settings.blend.share, "depth": TOP_K, "recommender": teacher},
        ]
        node = {"kind": "ensemble", "members": members}
    return {
        "format": 1,
        "name": name,
        "exclude_seen": settings.exclude_seen,
        "catalogue": CATALOGUE,
        "recommender": node,
    }


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a description and all below it."""
    yield node
    for member in node.get("members", []):
        yield from nodes(member["recommender"])


def language_model(folder: Path) -> Path:
    """The model folder of the language model that a run or an export recommends by.

    Raises:
        RunError: it has none, or see `describe`.
    """
    found = [node["folder"] for node in nodes(describe(folder)["recommender"]) if node["kind"] == "generative"]
    if not found:
        raise RunError(f"{folder} recommends without a language model, so vLLM cannot serve it: --engine transformers.")
    return folder / found[0]
