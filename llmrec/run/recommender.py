"""The specification of the recommender of a run or an export, which `decode/load` loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmrec.decode.recommender_spec import SPEC_FILE, RecommenderSpec, iter_nodes, read_spec
from llmrec.errors import RunError
from llmrec.model.folder import META
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import description_of, plan
from llmrec.run.stage import StageSpec, require_current


def is_export(folder: Path) -> bool:
    """Whether a folder is an export."""
    return (folder / SPEC_FILE).is_file()


def describe(folder: Path) -> RecommenderSpec:
    """Return the specification of the recommender of a run or an export.

    Raises:
        RunError: there is no such folder, the run is not trained, has no task that recommends, or has stages of two
            recipes.
        ModelError: the specification of an export is damaged.
    """
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}. Make a run with: llmrec run quickstart --out {folder}")
    if is_export(folder):
        return read_spec(folder)
    run = RunFolder(folder)
    if (folder / META).is_file() and not run.is_run():
        raise RunError(
            f"{folder} holds a model but no {SPEC_FILE}, so an older version of llmrec exported it, or it is not "
            "copied whole. Copy it again, or export its run again with: llmrec export RUN DIR"
        )
    run.require_run()
    recipe = recipe_of(folder)
    run.last_trained  # noqa: B018  # raises where nothing is trained
    if not recipe.tasks.recommending:
        raise RunError(
            f"the model of {folder} was trained to judge candidates ({', '.join(recipe.tasks.choices)}), not to "
            f"recommend. Its figures are in {run.evaluation(recipe.evaluate.split)}. For a model that recommends, "
            "train one with tasks.next_item=1"
        )
    description = description_of(recipe.evaluate, recipe.train, run.path.resolve().name)
    specs = plan(recipe)
    needed = [spec for spec in specs if spec.kind in ("data", "items", "catalogue", "tasks", "train")]
    require_current(run, needed + collaborative_stages(specs, description), recipe.seed)
    return description


def collaborative_stages(specs: Sequence[StageSpec], description: RecommenderSpec) -> list[StageSpec]:
    """Return the stages of the collaborative models of a recommender and of their parts."""
    named = {node["folder"] for node in iter_nodes(description["recommender"]) if "folder" in node}
    for spec in reversed(specs):  # parts of a model come before it
        if spec.kind == "collaborative" and spec.name in named:
            named.update(read for read in spec.reads if isinstance(read, str))
    return [spec for spec in specs if spec.kind == "collaborative" and spec.name in named]


def language_model(folder: Path) -> Path:
    """Return the folder of the language model of a run or export; RunError if it has none, or as `describe`."""
    found = [node["folder"] for node in iter_nodes(describe(folder)["recommender"]) if node["kind"] == "generative"]
    if not found:
        raise RunError(f"{folder} recommends without a language model, so vLLM cannot serve it: --engine transformers.")
    return folder / found[0]
