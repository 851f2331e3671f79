"""Next-item ranking over the whole catalogue: evaluation beside baselines, and validation while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from llmrec.contracts import CollaborativeModel, Ranked, Recommender, Request, Sequences
from llmrec.data.columns import try_cast
from llmrec.data.dataset import Dataset, EvalCases
from llmrec.decode.generative import Generative, TransformersEngine
from llmrec.decode.load import with_held_out_prompt
from llmrec.decode.recommenders import Ensemble
from llmrec.errors import DataError
from llmrec.evaluate import beyond
from llmrec.files import write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.text import item_titles
from llmrec.metrics.ranking import RANKING, Places, place, place_in_list, weighted
from llmrec.metrics.significance import bootstrap, paired
from llmrec.model.folder import Note
from llmrec.model.vocabulary import token_ids
from llmrec.recipe import Evaluate, Validation
from llmrec.seed import stream

LOST = "hr@50"  # what a model that narrows loses while its first places get better
Progress = Callable[[float], None]
ALONE = "the model alone"
"""What tables call the first member of an ensemble."""
OTHER_CASES = 1000
"""Cases, at most, that are ranked again with a prompt that training never saw."""
BLOCK = 512
"""Cases that a collaborative model scores at once, each a row over the catalogue."""


def evaluate(
    recommender: Recommender,
    name: str,
    dataset: Dataset,
    settings: Evaluate,
    baselines: Mapping[str, CollaborativeModel],
    seed: int,
    folder: Path,
    progress: Progress,
    vectors: np.ndarray | None = None,
) -> dict[str, Any]:
    """Rank, measure, compare, write `recommendations.parquet`, `per_user.parquet`, `examples.json`, `metrics.json`.

    Every system ranks the same cases from the same histories, and with `exclude_seen` none of them may give an item of
    the history. Of an ensemble, its first member alone is a system more. Judged with the prompt that it is served with,
    a model is asked once more with a prompt that training never saw: how much it depends on the wording.

    Args:
        recommender: over the items of the data, in their order.
        baselines: name → fitted collaborative model.
        seed: of intervals and tests.
        vectors: (items, dimensions) of the items' texts, for the diversity of lists; left out without them.

    Returns:
        What metrics.json holds.

    Raises:
        DataError: nothing is held out.
    """
    cases = dataset.cases(settings.split)
    if not len(cases.users):
        raise DataError(
            f"the split holds out nothing for {settings.split}. Evaluate on another part, or split otherwise."
        )
    ranked, alone = _recommend(recommender, cases, np.arange(len(cases.users)), dataset.user_ids, settings, progress)
    lists = {name: ranked.items} | ({} if alone is None else {ALONE: alone})
    places = {system: place_in_list(found, cases.targets) for system, found in lists.items()}
    for baseline, model in baselines.items():
        places[baseline], lists[baseline] = _rank_by(model, cases, settings.exclude_seen, ranked.items.shape[1])
    per_user = {system: _per_user(found, settings.ranking) for system, found in places.items()}
    world = beyond.World.of(dataset, cases, settings, vectors)
    result = {
        "protocol": _protocol(dataset, cases, settings, seed),
        "model": name,
        "systems": {s: {m: asdict(bootstrap(v, seed)) for m, v in table.items()} for s, table in per_user.items()},
        "paired": {
            s: {m: asdict(paired(per_user[name][m], v, seed)) for m, v in table.items()}
            for s, table in per_user.items()
            if s != name
        },
        "beyond": {system: beyond.figures(world, found) for system, found in lists.items()},
        "slices": beyond.by_slice(world, per_user),
    }
    other = with_held_out_prompt(recommender) if settings.template == "trained" else None
    if other:
        result["held_out_template"] = _held_out_template(other, dataset, cases, settings, per_user[name], seed)
    if settings.weight_column:
        result["worth"] = _worth(dataset, cases, settings, per_user)
    _write(folder, dataset, cases, ranked, per_user)
    write_json(folder / "metrics.json", result)
    return result


def _protocol(dataset: Dataset, cases: EvalCases, settings: Evaluate, seed: int) -> dict[str, Any]:
    """Everything that moves figures beside the model; `evaluate.compare` refuses runs that differ in it."""
    return {
        "split": dataset.facts.get("split", "leave-one-out"),
        "tie-break": dataset.facts.get("tie-break", "unknown"),
        "target": settings.split,
        "candidates": "whole catalogue",
        "items": dataset.n_items,
        "users": len(np.unique(cases.users)),
        "cases": len(cases.users),
        "exclude_seen": settings.exclude_seen,
        "beams": settings.beams,
        "template": settings.template,
        "ties": "expectation",
        "intervals": "95 %, bootstrap over cases",
        "seed": seed,
    }


def _rank_by(model: CollaborativeModel, cases: EvalCases, exclude_seen: bool, depth: int) -> tuple[Places, np.ndarray]:
    """Rank of each target by a collaborative model's scores, and its best items, as many as the recommender's."""
    places, lists = [], []
    for start in range(0, len(cases.users), BLOCK):
        stop = min(start + BLOCK, len(cases.users))
        histories = Sequences.of([cases.histories[row] for row in range(start, stop)])
        scores = model.score(histories)
        places.append(place(scores, cases.targets[start:stop], histories if exclude_seen else None))
        lists.append(beyond.top(scores, histories if exclude_seen else None, min(depth, beyond.K)))
    return Places(*(np.concatenate([getattr(p, side) for p in places]) for side in ("higher", "tied"))), np.concatenate(
        lists
    )


def _worth(
    dataset: Dataset, cases: EvalCases, settings: Evaluate, per_user: dict[str, dict[str, np.ndarray]]
) -> dict[str, Any]:
    """System → metric → mean weighted by the target's value in the column `evaluate.weight_column`."""
    assert settings.weight_column
    if settings.weight_column not in dataset.items.column_names:
        raise DataError(
            f"evaluate.weight_column names the column '{settings.weight_column}', but items have: "
            + ", ".join(dataset.items.column_names)
        )
    column = try_cast(dataset.items[settings.weight_column], "DOUBLE")
    worth = column.to_numpy()[cases.targets]
    return {
        "column": settings.weight_column,
        "cases without one": int(np.isnan(worth).sum()),
        "systems": {s: {m: weighted(v, worth) for m, v in table.items()} for s, table in per_user.items()},
    }


def _held_out_template(
    recommender: Recommender,
    dataset: Dataset,
    cases: EvalCases,
    settings: Evaluate,
    trained: dict[str, np.ndarray],
    seed: int,
) -> dict[str, Any]:
    """Figures with another prompt on a sample of the cases, and these less the figures with the trained prompt."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(cases.users))[:OTHER_CASES])
    ranked, _ = _recommend(recommender, cases, rows, dataset.user_ids, settings, lambda done: None)
    figures = _per_user(place_in_list(ranked.items, cases.targets[rows]), settings.ranking)
    return {
        "cases": len(rows),
        "figures": {metric: asdict(bootstrap(values, seed)) for metric, values in figures.items()},
        "difference": {
            metric: asdict(paired(values, trained[metric][rows], seed)) for metric, values in figures.items()
        },
    }


def _recommend(
    recommender: Recommender,
    cases: EvalCases,
    which: np.ndarray,
    users: Sequence[str],
    settings: Evaluate,
    progress: Progress,
) -> tuple[Ranked, np.ndarray | None]:
    """(which, k) items and scores of some cases, and the items of an ensemble's first member alone.

    k is the deepest cut-off asked for, or as many items as lists are judged by, where the beams reach them.
    Histories of about one length share a batch.
    """
    deepest, count = max(int(metric.split("@")[1]) for metric in settings.ranking), len(which)
    k = min(max(deepest, min(beyond.K, settings.beams)), recommender.n_items)
    items, scores = np.full((count, k), -1, np.int32), np.full((count, k), -np.inf, np.float32)
    mixed = recommender if isinstance(recommender, Ensemble) else None
    alone = np.full((count, k), -1, np.int32)
    order = np.argsort(cases.histories.lengths[which], kind="stable")
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        requests = [
            _request(cases.histories[case], str(users[cases.users[case]]), settings.exclude_seen)
            for case in which[rows].tolist()
        ]
        if mixed:
            members = mixed.rank_members(requests, k)
            alone[rows] = members[0].items[:, :k]
            ranked = mixed.combine(requests, members, k)
        else:
            ranked = recommender.rank(requests, k)
        items[rows], scores[rows] = ranked.items, ranked.scores
        progress(min(1.0, (start + settings.batch) / len(order)))
    return Ranked(items, scores), alone if mixed else None


def _request(history: np.ndarray, user: str, exclude_seen: bool) -> Request:
    denied = np.unique(history).astype(np.int64) if exclude_seen else np.zeros(0, np.int64)
    return Request(history, user=user, denied=denied)


def _per_user(places: Places, metrics: list[str]) -> dict[str, np.ndarray]:
    pairs = [(metric, *metric.split("@")) for metric in metrics]
    return {metric: RANKING[kind](places, int(k)) for metric, kind, k in pairs}


def _write(
    folder: Path, dataset: Dataset, cases: EvalCases, ranked: Ranked, per_user: dict[str, dict[str, np.ndarray]]
) -> None:
    titles = item_titles(dataset.items)
    user_ids, item_ids = np.array(dataset.user_ids)[cases.users], np.array(dataset.item_ids)
    items, scores = ranked.items, ranked.scores
    rows, columns = np.nonzero(items >= 0)
    shown = {
        "user_id": user_ids[rows],
        "item_id": item_ids[items[rows, columns]],
        "rank": (columns + 1).astype(np.int32),
        "score": scores[rows, columns],
    }
    if len(np.unique(cases.users)) < len(cases.users):  # a user has several lists
        shown["case"] = rows.astype(np.int32)
    pq.write_table(pa.table(shown), folder / "recommendations.parquet")
    table = {f"{system} {metric}": values for system, metrics in per_user.items() for metric, values in metrics.items()}
    told = pa.table({"user_id": user_ids, "target": item_ids[cases.targets], **table})
    pq.write_table(told, folder / "per_user.parquet")
    examples = [
        {
            "user_id": str(user_ids[row]),
            "history": [titles[item] for item in cases.histories[row][-8:]],
            "recommended": [titles[item] for item in items[row][:10] if item >= 0],
            "held_out": titles[int(cases.targets[row])],
            "held_out_rank": next((int(place) + 1 for place in np.flatnonzero(items[row] == cases.targets[row])), None),
        }
        for row in np.random.default_rng(0).permutation(len(cases.users))[:6].tolist()
    ]
    write_json(folder / "examples.json", examples)


def validator(
    settings: Validation, evaluation: Evaluate, dataset: Dataset, catalogue: Catalogue, seed: int, wide: bool = False
) -> Callable[[Any, PreTrainedTokenizerBase, Note], dict[str, float]]:
    """The function that measures for early stopping how well validation items are ranked, on a sample of users.

    Args:
        evaluation: beams, batch, wording and whether seen items are excluded, as the final evaluation has them.
        dataset: of the run; its test items are not looked at.
        wide: also measure what a narrowing model loses first: `hr@50`, and `coverage@10`, the share of all items that
            stand among the first ten of any list.

    Returns:
        (model in evaluation mode, tokenizer, note) → metric → mean, the metric of `settings` first.

    Raises:
        DataError: no user has a validation item.
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
        live = Generative(tokenizer, note, catalogue, engine, evaluation.beams)
        if evaluation.template == "held-out":
            live = live.with_held_out_prompt() or live
        found = []
        for start in range(0, len(histories), evaluation.batch):
            batch, names = (rows[start : start + evaluation.batch] for rows in (histories, users))
            pairs = zip(batch, names, strict=True)
            requests = [_request(history, user, evaluation.exclude_seen) for history, user in pairs]
            found.append(live.rank(requests, k).items)
        lists = np.concatenate(found)
        per_user = _per_user(place_in_list(lists, targets), metrics)
        figures = {metric: float(values.mean()) for metric, values in per_user.items()}
        shown = np.unique(lists[:, :10])
        return figures | ({"coverage@10": float((shown >= 0).sum() / dataset.n_items)} if wide else {})

    return measure
