"""llmrec: fine-tune language models for recommendation.

>>> import llmrec
>>> run = llmrec.run_recipe("quickstart", {"train.0.epochs": 10})    # doctest: +SKIP
>>> llmrec.evaluate_run(run)["systems"]                                  # doctest: +SKIP
>>> rec = llmrec.load(run)                                           # doctest: +SKIP
>>> rec.recommend(history=["50", "181"], k=10)                       # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.decode.generative import EngineName
    from llmrec.decode.load import LoadedRecommender
    from llmrec.run.stage import Split

__version__ = "0.1.0"


def run_recipe(
    recipe: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    out: str | Path | None = None,
    tiny: bool = False,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Path:
    """Run a recipe up to its evaluation, as `llmrec run --until evaluate` does, and return the run folder.

    Stages that are made already are skipped, and an interrupted run is resumed.

    Args:
        recipe: path of a YAML file, or the name of a bundled recipe such as `quickstart`.
        overrides: changes, such as `{"train.0.epochs": 2}` or `["train.0.epochs=2"]`.
        out: the run folder; `runs/RECIPE` if None.
        tiny: use a very small model and at most 200 users.
        progress: called with the stage and the share done, 0 to 1.

    Raises:
        RecipeError: the recipe or an override is wrong.
        LlmrecError: a stage fails.
    """
    from llmrec import resources
    from llmrec.recipe_file import load
    from llmrec.run.execute import run
    from llmrec.run.layout import default_run

    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    path = resources.recipe_path(str(recipe))
    return run(load(path, list(overrides), tiny), Path(out) if out else default_run(path, tiny), "evaluate", progress)


def evaluate_run(
    run: str | Path, split: Split | None = None, beams: int | None = None, engine: EngineName = "transformers"
) -> dict[str, Any]:
    """Return the figures of a run, as `llmrec evaluate --json` prints them. Missing ones are computed.

    Args:
        run: the run folder.
        split: test or valid; `evaluate.split` of the recipe if None.
        beams: another beam width than the recipe's; the figures are then not kept in the run.
        engine: transformers or vllm; figures by vLLM are not kept in the run.

    Raises:
        RunError: the run is not trained, has stages of two recipes, or keeps its test part closed.
    """
    from llmrec.run import execute

    return execute.evaluate_run(Path(run), split, beams, engine)


def add_items(run: str | Path, items: str | Path, catalogue: str | None = None) -> Path:
    """Assign codes to new items, as `llmrec index add` does, and return the folder of the new catalogue.

    The model recommends the new items without training: `llmrec.load(run, catalogue=FOLDER)`.

    Args:
        run: the run folder.
        items: Parquet or CSV file with item_id and the columns of the run's items.
        catalogue: first digits of the hash of the catalogue to extend; the newest one if None.

    Raises:
        CodeError: no reserved tokens are left, or all items have codes already.
        DataError: a column is missing, or an item has no text.
    """
    from llmrec.run.plan import add_items

    return add_items(Path(run), Path(items), catalogue)[0]


def load(
    folder: str | Path,
    held_out_prompt: bool = False,
    engine: EngineName = "transformers",
    beams: int | None = None,
    catalogue: str | Path | None = None,
    **options: Any,
) -> LoadedRecommender:
    """Load the recommender of a run or of an export, with the settings of its evaluation.

    Args:
        folder: a run folder, such as `runs/quickstart`, or the output of `llmrec export`.
        held_out_prompt: use a prompt template that training never saw.
        engine: transformers or vllm, for the language model.
        beams: beam width; as in the evaluation if None.
        catalogue: folder of a catalogue with added items; that of the training if None.
        options: arguments of `vllm.LLM`.

    Raises:
        RunError: the folder has no trained model, or stages of two recipes.
        ModelError: a file is damaged, or the catalogue is of another model.
    """
    from llmrec.decode.generative import engine_factory
    from llmrec.decode.load import LoadOptions, RecommenderFolder
    from llmrec.run.recommender import describe

    root = Path(folder)
    settings = LoadOptions(partial(engine_factory, engine, **options), beams, held_out_prompt)
    return RecommenderFolder(root, describe(root), settings).for_catalogue(Path(catalogue) if catalogue else None)
