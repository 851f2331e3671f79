"""llmrec: fine-tune language models for recommendation.

>>> import llmrec
>>> rec = llmrec.load("runs/quickstart")          # doctest: +SKIP
>>> rec.recommend(history=["50", "181"], k=10)    # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.decode.recommender import EngineName, Recommender

__version__ = "0.1.0"


def load(
    run: str | Path, held_out_wording: bool = False, engine: EngineName = "transformers", **options: Any
) -> Recommender:
    """The recommender that a run trained.

    It gives lists as they are judged: with as many beams, items of the history left out or not, and a teacher mixed in
    where the recipe says so (`evaluate.blend`; an export holds no teacher).

    Args:
        run: a run folder, such as `runs/quickstart`, or what `llmrec export` made of one.
        held_out_wording: prompt with a wording that training never saw.
        engine: what runs the model; vLLM takes half a minute to start.
        options: arguments of `vllm.LLM`, for that engine.

    Raises:
        RunError: the folder holds no trained model.
    """
    from llmrec.decode.blend import blender
    from llmrec.decode.recommender import Recommender, as_judged
    from llmrec.model.folder import NOTE
    from llmrec.pipeline import trained_folder
    from llmrec.recipe_file import recipe_of

    folder = Path(run)
    if (folder / NOTE).is_file():
        return Recommender.open(folder, folder / "catalogue", held_out_wording, engine, **options)
    model = trained_folder(folder) / "model"
    found = Recommender.open(model, folder / "catalogue", held_out_wording, engine, **options)
    found.note = as_judged(found.note, folder)
    if blended := blender(recipe_of(folder).evaluate, folder):
        found.blend = blended(found.catalogue)
    return found
