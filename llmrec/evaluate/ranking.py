"""Evaluate next-item ranking over the whole catalogue, with baselines; and the validation metrics during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from llmrec.evaluate import list_quality
from llmrec.files import write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.item_text import item_titles
from llmrec.metrics.ranking import RANKING, Ranks, rank_in_lists, rank_targets, weighted_mean
from llmrec.metrics.significance import bootstrap, paired
from llmrec.model.folder import ModelMeta
from llmrec.model.vocabulary import token_ids
from llmrec.recipe import Evaluate, Validation
from llmrec.seed import stream

Progress = Callable[[float], None]
PerCase = dict[str, np.ndarray]  # metric → (cases,) values
WIDE_METRIC = "hr@50"  # drops when alignment narrows a model, even while its top ranks improve
ALONE = "the model alone"
"""Name in tables of the first member of an ensemble."""
HELD_OUT_CASES = 1000
"""Most cases that are ranked again with the held-out template."""
BLOCK = 512
"""Cases per batch of a collaborative model; each is a row over the catalogue."""


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
    """Rank all cases with the model and the baselines, and write metrics, lists and examples into a folder.

    Writes `metrics.json`, `per_user.parquet`, `recommendations.parquet` and `examples.json`. All systems rank the same
    cases from the same histories, with `exclude_seen` without items of the history. The first member of an ensemble is
    also evaluated alone. A model evaluated with the template of training is also evaluated with the held-out one, to
    measure how much it depends on the template.

    Args:
        recommender: its items are those of the data, in the same order.
        baselines: name → fitted collaborative model.
        seed: of intervals and tests.
        vectors: (items, dimensions) of the items' texts, for the diversity of lists; None to leave it out.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: nothing is held out.
    """
    cases = dataset.cases(settings.split)
    if not len(cases.users):
        raise DataError(
            f"the split holds out nothing for {settings.split}. Evaluate on another part, or split otherwise."
        )
    ranked, alone = _recommend(recommender, dataset, cases, np.arange(len(cases.users)), settings, progress)
    lists = {name: ranked.items} | ({} if alone is None else {ALONE: alone})
    ranks = {system: rank_in_lists(items, cases.targets) for system, items in lists.items()}
    for baseline, model in baselines.items():
        ranks[baseline], lists[baseline] = _rank_by(model, cases, settings.exclude_seen, ranked.items.shape[1])
    per_case = {system: _metrics(of_system, settings.ranking) for system, of_system in ranks.items()}
    context = list_quality.ListContext.of(dataset, cases, settings, vectors)
    result = {
        "protocol": _protocol(dataset, cases, settings, seed),
        "model": name,
        "systems": {s: {m: asdict(bootstrap(v, seed)) for m, v in table.items()} for s, table in per_case.items()},
        "paired": {
            s: {m: asdict(paired(per_case[name][m], v, seed)) for m, v in table.items()}
            for s, table in per_case.items()
            if s != name
        },
        "beyond": {system: list_quality.list_metrics(context, items) for system, items in lists.items()},
        "slices": list_quality.by_slice(context, per_case),
    }
    other = with_held_out_prompt(recommender) if settings.template == "trained" else None
    if other:
        result["held_out_template"] = _held_out_template(other, dataset, cases, settings, per_case[name], seed)
    if settings.weight_column:
        result["weighted"] = _weighted(dataset, cases, settings.weight_column, per_case)
    _write(folder, dataset, cases, ranked, per_case)
    write_json(folder / "metrics.json", result)
    return result


def _protocol(dataset: Dataset, cases: EvalCases, settings: Evaluate, seed: int) -> dict[str, Any]:
    """Settings that change metrics; `llmrec compare` refuses runs that differ in them."""
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


def _rank_by(model: CollaborativeModel, cases: EvalCases, exclude_seen: bool, depth: int) -> tuple[Ranks, np.ndarray]:
    """Rank of each target by the scores of a collaborative model, and its best items, `depth` at most."""
    ranks, lists = [], []
    for start in range(0, len(cases.users), BLOCK):
        stop = min(start + BLOCK, len(cases.users))
        histories = Sequences.of([cases.histories[row] for row in range(start, stop)])
        scores, excluded = model.score(histories), histories if exclude_seen else None
        ranks.append(rank_targets(scores, cases.targets[start:stop], excluded))
        lists.append(list_quality.top_k(scores, excluded, min(depth, list_quality.K)))
    higher, tied = (np.concatenate([getattr(part, side) for part in ranks]) for side in ("higher", "tied"))
    return Ranks(higher, tied), np.concatenate(lists)


def _weighted(dataset: Dataset, cases: EvalCases, column: str, per_case: dict[str, PerCase]) -> dict[str, Any]:
    """System → metric → mean weighted by the target's value in the column `evaluate.weight_column`."""
    if column not in dataset.items.column_names:
        names = ", ".join(dataset.items.column_names)
        raise DataError(f"evaluate.weight_column names the column '{column}', but items have: {names}")
    weights = try_cast(dataset.items[column], "DOUBLE").to_numpy()[cases.targets]
    return {
        "column": column,
        "cases without one": int(np.isnan(weights).sum()),
        "systems": {s: {m: weighted_mean(v, weights) for m, v in table.items()} for s, table in per_case.items()},
    }


def _held_out_template(
    recommender: Recommender, dataset: Dataset, cases: EvalCases, settings: Evaluate, trained: PerCase, seed: int
) -> dict[str, Any]:
    """Metrics with the held-out template on a sample of the cases, and their difference to the trained template."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(cases.users))[:HELD_OUT_CASES])
    ranked, _ = _recommend(recommender, dataset, cases, rows, settings, lambda done: None)
    metrics = _metrics(rank_in_lists(ranked.items, cases.targets[rows]), settings.ranking)
    return {
        "cases": len(rows),
        "figures": {name: asdict(bootstrap(values, seed)) for name, values in metrics.items()},
        "difference": {name: asdict(paired(values, trained[name][rows], seed)) for name, values in metrics.items()},
    }


def _recommend(
    recommender: Recommender,
    dataset: Dataset,
    cases: EvalCases,
    chosen: np.ndarray,
    settings: Evaluate,
    progress: Progress,
) -> tuple[Ranked, np.ndarray | None]:
    """Top k of the chosen cases; for an ensemble also the lists (chosen, k) of its first member alone.

    k is the largest cut-off of `ranking`, or the length of measured lists if the beams allow it. Histories of similar
    length share a batch.
    """
    deepest, count = max(int(metric.split("@")[1]) for metric in settings.ranking), len(chosen)
    k = min(max(deepest, min(list_quality.K, settings.beams)), recommender.n_items)
    items, scores = np.full((count, k), -1, np.int32), np.full((count, k), -np.inf, np.float32)
    alone = np.full((count, k), -1, np.int32)
    ensemble = recommender if isinstance(recommender, Ensemble) else None
    order = np.argsort(cases.histories.lengths[chosen], kind="stable")
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        requests = [
            _request(cases.histories[case], str(dataset.user_ids[cases.users[case]]), settings.exclude_seen)
            for case in chosen[rows].tolist()
        ]
        if ensemble:
            members = ensemble.rank_members(requests, k)
            alone[rows] = members[0].items[:, :k]
            ranked = ensemble.combine(requests, members, k)
        else:
            ranked = recommender.rank(requests, k)
        items[rows], scores[rows] = ranked.items, ranked.scores
        progress(min(1.0, (start + settings.batch) / len(order)))
    return Ranked(items, scores), alone if ensemble else None


def _request(history: np.ndarray, user: str, exclude_seen: bool) -> Request:
    denied = np.unique(history).astype(np.int64) if exclude_seen else np.zeros(0, np.int64)
    return Request(history, user=user, denied=denied)


def _metrics(ranks: Ranks, names: list[str]) -> PerCase:
    parsed = [(name, *name.split("@")) for name in names]
    return {name: RANKING[kind](ranks, int(k)) for name, kind, k in parsed}


def _write(folder: Path, dataset: Dataset, cases: EvalCases, ranked: Ranked, per_case: dict[str, PerCase]) -> None:
    titles = item_titles(dataset.items)
    user_ids, item_ids = np.array(dataset.user_ids)[cases.users], np.array(dataset.item_ids)
    items, scores = ranked.items, ranked.scores
    rows, columns = np.nonzero(items >= 0)
    recommendations = {
        "user_id": user_ids[rows],
        "item_id": item_ids[items[rows, columns]],
        "rank": (columns + 1).astype(np.int32),
        "score": scores[rows, columns],
    }
    if len(np.unique(cases.users)) < len(cases.users):  # several cases per user
        recommendations["case"] = rows.astype(np.int32)
    pq.write_table(pa.table(recommendations), folder / "recommendations.parquet")
    table = {f"{system} {metric}": values for system, metrics in per_case.items() for metric, values in metrics.items()}
    target_ids = item_ids[cases.targets]
    pq.write_table(pa.table({"user_id": user_ids, "target": target_ids, **table}), folder / "per_user.parquet")
    examples = [
        {
            "user_id": str(user_ids[row]),
            "history": [titles[item] for item in cases.histories[row][-8:]],
            "recommended": [titles[item] for item in items[row][:10] if item >= 0],
            "held_out": titles[int(cases.targets[row])],
            "held_out_rank": next((int(rank) + 1 for rank in np.flatnonzero(items[row] == cases.targets[row])), None),
        }
        for row in np.random.default_rng(0).permutation(len(cases.users))[:6].tolist()
    ]
    write_json(folder / "examples.json", examples)


def validator(
    settings: Validation, evaluation: Evaluate, dataset: Dataset, catalogue: Catalogue, seed: int, wide: bool = False
) -> Callable[[Any, PreTrainedTokenizerBase, ModelMeta], dict[str, float]]:
    """Build the function that early stopping calls: ranking metrics of validation items, on a sample of users.

    Args:
        evaluation: beams, batch, template and `exclude_seen` of the final evaluation.
        dataset: of the run; its test items are not used.
        wide: also measure what drops first when a model narrows: `hr@50`, and `coverage@10`, the share of all items in
            the top ten of any list.

    Returns:
        Function (model in evaluation mode, tokenizer, meta) → metric → mean; the metric of `settings` comes first.

    Raises:
        DataError: no user has a validation item.
        RunError: the catalogue has other items than the data.
    """
    dataset.check_catalogue(catalogue.item_ids)
    cases = dataset.cases("valid")
    if not len(cases.users):
        raise DataError("no user has a validation item, so nothing can be validated. Set train.N.validation.every: 0.")
    sample = stream(seed, "validation").permutation(len(cases.users))[: settings.users]
    chosen = sample[np.argsort(cases.histories.lengths[sample], kind="stable")]  # similar lengths share a batch
    requests = [
        _request(cases.histories[case], str(dataset.user_ids[cases.users[case]]), evaluation.exclude_seen)
        for case in chosen.tolist()
    ]
    names = [settings.metric, *([WIDE_METRIC] if wide and settings.metric != WIDE_METRIC else [])]
    k = min(max(int(name.split("@")[1]) for name in names), dataset.n_items)

    def measure(model: Any, tokenizer: PreTrainedTokenizerBase, meta: ModelMeta) -> dict[str, float]:
        engine = TransformersEngine(model, catalogue.trie, token_ids(tokenizer, catalogue.tokens))
        ranker = Generative(tokenizer, meta, catalogue, engine, evaluation.beams)
        if evaluation.template == "held-out":
            ranker = ranker.with_held_out_prompt() or ranker
        batches = (requests[start : start + evaluation.batch] for start in range(0, len(requests), evaluation.batch))
        items = np.concatenate([ranker.rank(batch, k).items for batch in batches])
        values = _metrics(rank_in_lists(items, cases.targets[chosen]), names)
        means = {name: float(of_metric.mean()) for name, of_metric in values.items()}
        shown = np.unique(items[:, :10])
        return means | ({"coverage@10": float((shown >= 0).sum() / dataset.n_items)} if wide else {})

    return measure
