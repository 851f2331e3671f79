"""What beam search loses: a run's test users ranked exactly, and by beams of several widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import llmrec
from llmrec.data.dataset import Dataset
from llmrec.decode.filters import Filter
from llmrec.metrics.ranking import hit, ndcg, place_in_list


def measure_loss(run: Path, widths: list[int], users: int | None, batch: int = 32) -> dict[str, Any]:
    """Per beam width: the share of the exact top 10 found, and hits and NDCG at 10, seen items left out.

    Args:
        run: a run folder on transformers.
        widths: beams.
        users: the first so many test users; None for all.
    """
    recommender, dataset = llmrec.load(run), Dataset.load(run / "data")
    who, targets = dataset.targets("test")
    before = dataset.before("test")
    histories = [before[user].tolist() for user in who[:users]]
    targets = targets[:users]
    trie = recommender.catalogue.trie
    filters = [Filter.of(trie, seen) for seen in histories]
    parts = [slice(at, at + batch) for at in range(0, len(histories), batch)]
    exact = np.concatenate([_top(recommender.score(histories[part], filters[part])) for part in parts])
    found = {"exact": _judged(exact, targets)}
    for width in widths:
        ranked = [recommender.rank(histories[part], 10, filters[part], width).items for part in parts]
        items = np.concatenate(ranked)
        same = [len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(items, exact, strict=True)]
        found[str(width)] = _judged(items, targets) | {"share_of_exact_top_10": round(float(np.mean(same)), 4)}
    return {"run": run.name, "users": len(histories), "items": len(trie), "beams": found}


def _top(scores: np.ndarray) -> np.ndarray:
    """(rows, 10) the best items of each row of exact scores."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :10].astype(np.int32)


def _judged(items: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    places = place_in_list(items, targets)
    return {"hr@10": round(float(hit(places, 10).mean()), 5), "ndcg@10": round(float(ndcg(places, 10).mean()), 5)}
