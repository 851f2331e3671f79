"""Validation while a model trains: a seeded sample of users, the model as it stands, the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.data.dataset import Dataset
from llmrec.decode.engine import TransformersEngine
from llmrec.decode.filters import Filter
from llmrec.decode.recommender import Recommender
from llmrec.errors import DataError
from llmrec.indexing.catalogue import Catalogue
from llmrec.metrics.ranking import RANKING, place_in_list
from llmrec.model.folder import Note
from llmrec.model.vocabulary import token_ids
from llmrec.recipe import Evaluate, Validation
from llmrec.seed import stream


def validator(
    settings: Validation, evaluation: Evaluate, dataset: Dataset, catalogue: Catalogue, seed: int
) -> Callable[[Any, PreTrainedTokenizerBase, Note], float]:
    """What early stopping measures: how well validation items are ranked after the training part of each history.

    Args:
        settings: metric and users.
        evaluation: beams, batch, wording and whether seen items are excluded, as the final evaluation has them.
        dataset: of the run; its test items are not looked at.
        catalogue: of the run.
        seed: of the sample of users.

    Returns:
        A function of a model in evaluation mode, its tokenizer and its note: the mean over the sampled users.

    Raises:
        DataError: nobody has a validation item.
    """
    cases = dataset.cases("valid")
    if not len(cases.users):
        raise DataError("no user has a validation item, so nothing can be validated. Set train.N.validation.every: 0.")
    drawn = stream(seed, "validation").permutation(len(cases.users))[: settings.users]
    chosen = drawn[np.argsort(cases.histories.lengths[drawn], kind="stable")]  # like lengths share a batch
    histories, targets = [cases.histories[case].tolist() for case in chosen], cases.targets[chosen]
    kind, deepest = settings.metric.split("@")
    k = min(int(deepest), dataset.n_items)

    def measure(model: Any, tokenizer: PreTrainedTokenizerBase, note: Note) -> float:
        engine = TransformersEngine(model, catalogue.trie, token_ids(tokenizer, catalogue.tokens))
        live = Recommender(tokenizer, note, catalogue, engine, evaluation.wording == "held-out")
        found = []
        for start in range(0, len(histories), evaluation.batch):
            batch = histories[start : start + evaluation.batch]
            filters = [Filter.of(catalogue.trie, seen if evaluation.exclude_seen else ()) for seen in batch]
            found.append(live.rank(batch, k, filters, evaluation.beams).items)
        places = place_in_list(np.concatenate(found), targets)
        return float(RANKING[kind](places, int(deepest)).mean())

    return measure
