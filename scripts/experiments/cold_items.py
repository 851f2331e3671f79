"""Items that come after training: a model trained without them, codes by its frozen quantizer, recall beside baselines.

python scripts/experiments/cold_items.py            → results/bench-indexing-cold.json

A tenth of the items is new: none of their events is trained on, and the catalogue is made without them. After training
they are added as `llmrec index add` adds them. Judged are events of new items, one a user; a history holds old items.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from commands import language_model
from llmrec import resources
from llmrec.contracts import Request
from llmrec.data.dataset import Dataset
from llmrec.decode.generative import Generative
from llmrec.indexing.new_items import add
from llmrec.items import read_vectors
from llmrec.recipe_file import load
from llmrec.results.record import write_result
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder
from llmrec.seed import stream

CASES, K, RECENT = 300, 10, 10  # judged; length of lists; items of a history that text is compared with
PLACES = 2  # of a list, that a shop may keep for new items, as Rajput et al. 2023 (arXiv 2305.05065) do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/.bench-indexing"), help="folder of both runs, kept")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    figures, path = cold(given.work), given.out / "bench-indexing-cold.json"
    write_result(path, "python scripts/experiments/cold_items.py", {"cold": figures}, seed=0)
    print(figures, path, sep="\n")


def cold(work: Path) -> dict[str, Any]:
    """Recall of new items.

    Args:
        work: where both runs are kept: `cold`, all items up to their vectors, and `warm`, trained without the new.

    Returns:
        Recall at 10 and at 2 among the new items alone, and at 10 with the whole catalogue to choose from, of the model
        and of baselines; with half of an interval of 95 %.
    """
    every = load(resources.recipe_path("quickstart-text"), ["data.split=cold-items"])
    whole = RunFolder(run(every, work / "cold", until="items"))
    data = Dataset.load(whole.data, texts=False)
    new, old = _parts(data, work)
    files = f"data={{source: files, interactions: {work / 'log.parquet'}, items: {work / 'old.parquet'}}}"
    warm = load(resources.recipe_path("quickstart-text"), [files, "train.0.epochs=6"])
    known = RunFolder(run(warm, work / "warm", until="train"))
    folder, facts = add(work / "new.parquet", known.catalogue, warm.items, warm.seed, known.catalogues)
    asked = language_model(known.path, folder)
    vectors = read_vectors(whole.items, data.n_items)
    histories, targets = _cases(data, old)
    scores = _model(asked, data, histories) | _baselines(data, histories, vectors, old, new)
    return {
        "new items": len(new),
        "old items": len(old),
        "new codes": facts["new codes"],
        "cases": len(targets),
        f"recall@{K} among new items": {name: _recall(table[:, new], new, targets) for name, table in scores.items()},
        f"recall@{PLACES} among new items": {
            name: _recall(table[:, new], new, targets, PLACES) for name, table in scores.items()
        },
        f"recall@{K} among all items": {
            name: _recall(_without(table, histories), np.arange(data.n_items), targets)
            for name, table in scores.items()
        },
    }


def _parts(data: Dataset, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of new and of old items, and files of both; items held out for validation are neither."""
    part = {name: np.unique(data.targets(name)[1]) for name in ("train", "valid", "test")}
    pq.write_table(data.items.take(pa.array(part["test"])), work / "new.parquet")
    pq.write_table(data.items.take(pa.array(part["train"])), work / "old.parquet")
    rows = pa.array(np.flatnonzero(data.splits == 0))
    pq.write_table(data.interactions.select(["user_id", "item_id", "timestamp"]).take(rows), work / "log.parquet")
    return part["test"], part["train"]


def _cases(data: Dataset, old: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories of old items, and the new item that came next; one case a user, `CASES` of them at most."""
    cases, draw = data.cases("test"), stream(0, "bench", "cold")
    histories: list[np.ndarray] = []
    targets: list[int] = []
    met: set[int] = set()
    for row in draw.permutation(len(cases.targets)).tolist():
        start, stop = cases.histories.offsets[row : row + 2]
        history = cases.histories.items[start:stop]
        history = history[np.isin(history, old)]
        if len(history) and cases.users[row] not in met and len(targets) < CASES:
            met.add(int(cases.users[row]))
            histories.append(history)
            targets.append(int(cases.targets[row]))
    return histories, np.array(targets)


def _model(asked: Generative, data: Dataset, histories: list[np.ndarray]) -> dict[str, np.ndarray]:
    """(cases, items) scores of the model, in the numbers of `data`; items that it does not know are last."""
    known = asked.catalogue.item_number
    theirs = np.array([known.get(item_id, -1) for item_id in data.item_ids])
    rows = []
    for start in range(0, len(histories), 16):
        scores = asked.score([Request(theirs[history]) for history in histories[start : start + 16]])
        rows.append(np.where(theirs >= 0, scores[:, theirs], -np.inf))
    return {"llmrec": np.concatenate(rows)}


def _baselines(
    data: Dataset, histories: list[np.ndarray], vectors: np.ndarray, old: np.ndarray, new: np.ndarray
) -> dict[str, np.ndarray]:
    """(cases, items) scores; items that are neither old nor new are last."""
    draw = stream(0, "bench", "cold", "random")
    there = np.isin(np.arange(data.n_items), np.append(old, new))
    near = [vectors[history[-RECENT:]] @ vectors.T for history in histories]
    popular = np.bincount(data.histories.items, minlength=data.n_items).astype(float)
    trained = np.bincount(data.before("valid").items, minlength=data.n_items).astype(float)
    ties = draw.random((len(histories), data.n_items))
    tables = {
        "random": ties,
        "popularity in training": trained + ties,
        "popularity, of new items too (known only afterwards)": np.tile(popular, (len(histories), 1)),
        "nearest text": np.stack([rows.max(axis=0) for rows in near]),
        "mean text": np.stack([rows.mean(axis=0) for rows in near]),
    }
    return {name: np.where(there, table, -np.inf) for name, table in tables.items()}


def _without(table: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
    """Scores in which what a user had is last."""
    table = table.copy()
    for row, history in zip(table, histories, strict=True):
        row[history] = -np.inf
    return table


def _recall(table: np.ndarray, items: np.ndarray, targets: np.ndarray, k: int = K) -> dict[str, float]:
    """Share of cases whose target is among the k best of `items`, (cases, items) scores given."""
    best = items[np.argsort(-table, axis=1, kind="stable")[:, :k]]
    share = float((best == targets[:, None]).any(axis=1).mean())
    return {"mean": round(share, 4), "half interval": round(1.96 * (share * (1 - share) / len(targets)) ** 0.5, 4)}


if __name__ == "__main__":
    main()
