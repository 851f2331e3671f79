"""Validation while a model trains: a seeded sample of users, the model as it stands, the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.contracts import Request
from llmrec.data.dataset import Dataset
from llmrec.decode.generative import Generative, TransformersEngine
from llmrec.errors import DataError
from llmrec.indexing.catalogue import Catalogue
from llmrec.metrics.ranking import RANKING, Places, place_in_list
from llmrec.model.folder import Note
from llmrec.model.vocabulary import token_ids
from llmrec.recipe import Evaluate, Validation
from llmrec.seed import stream

LOST = "hr@50"  # what a model that narrows loses while its first places get better


def validator(
    settings: Validation, evaluation: Evaluate, dataset: Dataset, catalogue: Catalogue, seed: int, wide: bool = False
) -> Callable[[Any, PreTrainedTokenizerBase, Note], dict[str, float]]:
    """What early stopping measures: how well validation items are ranked after the training part of each history.

    Args:
        settings: metric and users.
        evaluation: beams, batch, wording and whether seen items are excluded, as the final evaluation has them.
        dataset: of the run; its test items are not looked at.
        catalogue: of the run.
        seed: of the sample of users.
        wide: also tell what a narrowing model loses first: `hr@50`, and `coverage@10`, the share of all items that
            stand among the first ten of any list.

    Returns:
        A function of a model in evaluation mode, its tokenizer and its note: metric → mean over the sampled users, the
        one of `settings` first.

    Raises:
        DataError: nobody has a validation item.
        RunError: the catalogue has other items than the data.
    """
    dataset.check_catalogue(catalogue.item_ids)
    cases = dataset.cases("valid")
    if not len(cases.users):
        raise DataError("no user has a validation item, so nothing can be validated. Set train.N.validation.every: 0.")
    drawn = stream(seed, "validation").permutation(len(cases.users))[: settings.users]
    chosen = drawn[np.argsort(cases.histories.lengths[drawn], kind="stable")]  # like lengths share a batch
    histories, targets = [cases.histories[case].tolist() for case in chosen], cases.targets[chosen]
    users = [str(dataset.user_ids[user]) for user in cases.users[chosen]]
    metrics = [settings.metric, *([LOST] if wide and settings.metric != LOST else [])]
    k = min(max(int(metric.split("@")[1]) for metric in metrics), dataset.n_items)

    def measure(model: Any, tokenizer: PreTrainedTokenizerBase, note: Note) -> dict[str, float]:
        engine = TransformersEngine(model, catalogue.trie, token_ids(tokenizer, catalogue.tokens))
        asked = replace(note, prompt=note.held_out_prompt) if evaluation.wording == "held-out" else note
        live = Generative(tokenizer, asked, catalogue, engine, evaluation.beams)
        found = []
        for start in range(0, len(histories), evaluation.batch):
            batch, names = (rows[start : start + evaluation.batch] for rows in (histories, users))
            denied = batch if evaluation.exclude_seen else [()] * len(batch)
            requests = [
                Request(history, user=user, denied=np.asarray(seen, np.int64))
                for history, user, seen in zip(batch, names, denied, strict=True)
            ]
            found.append(live.rank(requests, k).items)
        lists = np.concatenate(found)
        figures = {metric: _mean(place_in_list(lists, targets), *metric.split("@")) for metric in metrics}
        shown = np.unique(lists[:, :10])
        return figures | ({"coverage@10": float((shown >= 0).sum() / dataset.n_items)} if wide else {})

    return measure


def _mean(places: Places, kind: str, deepest: str) -> float:
    return float(RANKING[kind](places, int(deepest)).mean())
