"""Next-item ranking over the whole catalogue, for every user with a held-out item, beside the baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.decode.filters import Filter
from llmrec.decode.recommender import Recommender
from llmrec.files import write_json
from llmrec.metrics.ranking import RANKING, Places, place, place_in_list
from llmrec.metrics.significance import bootstrap, paired
from llmrec.recipe import Evaluate
from llmrec.teachers import fit_teachers

Progress = Callable[[float], None]


def evaluate(
    recommender: Recommender,
    name: str,
    dataset: Dataset,
    settings: Evaluate,
    target: Literal["valid", "test"],
    seed: int,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Rank, measure, compare, write `recommendations.parquet`, `per_user.parquet`, `examples.json`, `metrics.json`.

    The model's ranks come from its log-probabilities alone. Every system ranks the same users from the same histories,
    and with `exclude_seen` none of them may give an item of the history.

    Returns:
        What metrics.json holds: protocol, systems with intervals, paired differences to the model.
    """
    users, targets = dataset.targets(target)
    before = dataset.before(target)
    histories = Sequences.of([before[user] for user in users])
    ranked = _recommend(recommender, histories, settings, progress)
    places = {name: place_in_list(ranked[0], targets)}
    for baseline, teacher in fit_teachers(settings.baselines, dataset.before("valid"), dataset.n_items).items():
        scores = teacher.score(histories)
        places[baseline] = place(scores, targets, histories if settings.exclude_seen else None)
    per_user = {system: _per_user(found, settings.ranking) for system, found in places.items()}
    result = {
        "protocol": {
            "split": "leave-one-out",
            "target": target,
            "candidates": "whole catalogue",
            "items": dataset.n_items,
            "users": len(users),
            "exclude_seen": settings.exclude_seen,
            "beams": settings.beams,
            "wording": settings.wording,
            "ties": "expectation",
            "intervals": "95 %, bootstrap over users",
            "seed": seed,
        },
        "model": name,
        "systems": {s: {m: asdict(bootstrap(v, seed)) for m, v in table.items()} for s, table in per_user.items()},
        "paired": {
            s: {m: asdict(paired(per_user[name][m], v, seed)) for m, v in table.items()}
            for s, table in per_user.items()
            if s != name
        },
    }
    _write(folder, dataset, users, targets, histories, ranked, per_user, recommender.catalogue.titles)
    write_json(folder / "metrics.json", result)
    return result


def _recommend(
    recommender: Recommender, histories: Sequences, settings: Evaluate, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """(users, k) items and scores, k the deepest cut-off asked for; like lengths share a batch."""
    k = min(max(int(metric.split("@")[1]) for metric in settings.ranking), len(recommender.catalogue.item_ids))
    items, scores = np.full((len(histories), k), -1, np.int32), np.full((len(histories), k), -np.inf, np.float32)
    order = np.argsort(histories.lengths, kind="stable")
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        batch = [histories[int(row)].tolist() for row in rows]
        filters = [Filter.of(recommender.catalogue.trie, seen if settings.exclude_seen else ()) for seen in batch]
        found = recommender.rank(batch, k, filters, settings.beams)
        items[rows], scores[rows] = found.items, found.scores
        progress(min(1.0, (start + settings.batch) / len(order)))
    return items, scores


def _per_user(places: Places, metrics: list[str]) -> dict[str, np.ndarray]:
    pairs = [(metric, *metric.split("@")) for metric in metrics]
    return {metric: RANKING[kind](places, int(k)) for metric, kind, k in pairs}


def _write(
    folder: Path,
    dataset: Dataset,
    users: np.ndarray,
    targets: np.ndarray,
    histories: Sequences,
    ranked: tuple[np.ndarray, np.ndarray],
    per_user: dict[str, dict[str, np.ndarray]],
    titles: list[str],
) -> None:
    user_ids, item_ids = np.array(dataset.user_ids)[users], np.array(dataset.item_ids)
    items, scores = ranked
    rows, columns = np.nonzero(items >= 0)
    pq.write_table(
        pa.table(
            {
                "user_id": user_ids[rows],
                "item_id": item_ids[items[rows, columns]],
                "rank": (columns + 1).astype(np.int32),
                "score": scores[rows, columns],
            }
        ),
        folder / "recommendations.parquet",
    )
    table = {f"{system} {metric}": values for system, metrics in per_user.items() for metric, values in metrics.items()}
    pq.write_table(pa.table({"user_id": user_ids, **table}), folder / "per_user.parquet")
    examples = [
        {
            "user_id": str(user_ids[row]),
            "history": [titles[item] for item in histories[row][-8:]],
            "recommended": [titles[item] for item in items[row][:10] if item >= 0],
            "held_out": titles[int(targets[row])],
            "held_out_rank": _rank(items[row], int(targets[row])),
        }
        for row in np.random.default_rng(0).permutation(len(users))[:6].tolist()
    ]
    write_json(folder / "examples.json", examples)


def _rank(items: np.ndarray, target: int) -> int | None:
    """Place of the target in a list, from 1; None where it is not in it. By item, not by title: titles may be twins."""
    found = np.flatnonzero(items == target)
    return int(found[0]) + 1 if len(found) else None
