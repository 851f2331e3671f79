"""llmrec: fine-tune language models for recommendation.

>>> import llmrec
>>> rec = llmrec.load("runs/quickstart")          # doctest: +SKIP
>>> rec.recommend(history=["50", "181"], k=10)    # doctest: +SKIP
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.decode.generative import EngineName
    from llmrec.decode.load import LoadedRecommender

__version__ = "0.1.0"


def load(
    folder: str | Path,
    held_out_prompt: bool = False,
    engine: EngineName = "transformers",
    beams: int | None = None,
    **options: Any,
) -> LoadedRecommender:
    """Open the recommender of a run or of an export.

    It gives lists as they were judged: with as many beams, items of the history left out or not, and all members of an
    ensemble.

    Args:
        folder: a run folder, such as `runs/quickstart`, or what `llmrec export` made of one.
        held_out_prompt: prompt with a template that training never saw.
        engine: what runs a language model; vLLM takes half a minute to start.
        beams: prefixes that a search keeps; as the model was judged if None.
        options: arguments of `vllm.LLM`, for that engine.

    Raises:
        RunError: the folder holds no trained model, or stages of two recipes.
        ModelError: a file of it is damaged.
    """
    from llmrec.decode.generative import engine_factory
    from llmrec.decode.load import LoadOptions, RecommenderFolder
    from llmrec.run.recommender import describe

    root = Path(folder)
    opening = LoadOptions(partial(engine_factory, engine, **options), beams, held_out_prompt)
    return RecommenderFolder(root, describe(root), opening).for_catalogue()
