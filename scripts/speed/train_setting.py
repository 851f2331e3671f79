"""What benches of training start from: a run prepared up to its examples, its model, its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.indexing.catalogue import Catalogue
from llmrec.model.adapt import adapt
from llmrec.model.vocabulary import token_ids
from llmrec.recipe import Recipe, Sft
from llmrec.run import execute
from llmrec.run.layout import RunFolder
from llmrec.tasks import examples
from llmrec.train.encode import Encoded, encode_examples
from llmrec.train.initial_model import build_model
from llmrec.train.job import TrainJob


@dataclass(frozen=True)
class Setting:
    """A run that is ready to be trained.

    Attributes:
        recipe: of the run.
        run: its folder.
        catalogue: its items and codes.
        model: as training finds it, inside peft's where adapters are trained.
        tokenizer: with the item tokens.
        tokens: (n_symbols,) the model's token of each symbol of the catalogue.
        encoded: its training examples.
    """

    recipe: Recipe
    run: RunFolder
    catalogue: Catalogue
    model: Any
    tokenizer: PreTrainedTokenizerBase
    tokens: np.ndarray
    encoded: list[Encoded]

    @property
    def stage(self) -> Sft:
        """The first training stage of its recipe, which is a supervised one."""
        first = self.recipe.train[0]
        assert isinstance(first, Sft)
        return first


def prepare(recipe: Recipe, out: Path) -> Setting:
    """Make a run's folder up to its examples, where it is not made yet, and its model before the first step."""
    run = RunFolder(execute.run(recipe, out, until="tasks"))
    catalogue, table = Catalogue.load(run.catalogue), examples.load(run.tasks)
    job = TrainJob(
        stage=recipe.train[0],
        number=1,
        model=recipe.model,
        tasks=recipe.tasks,
        seed=recipe.seed,
        exclude_seen=recipe.evaluate.exclude_seen,
        data=run.data,
        items=run.items,
        catalogue=run.catalogue,
        tasks_folder=run.tasks,
        previous=None,
        key="",
        work=run.path / ".bench",
    )
    model, tokenizer = build_model(job, catalogue)
    new = token_ids(tokenizer, catalogue.tokens)
    model = adapt(model, recipe.model, None, new)
    encoded = encode_examples(table, tokenizer, model.config.get_text_config().max_position_embeddings)
    return Setting(recipe, run, catalogue, model, tokenizer, new, encoded)
