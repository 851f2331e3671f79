"""Fit collaborative models on a data set and rank every test user over the whole catalogue.

python scripts/experiments/teachers.py amazon-beauty-2014 popularity ease sasrec --out results
… sasrec                            one alone has a file of its own, teachers-SOURCE-sasrec.json
… sasrec --set epochs=5             other parameters than the defaults, for trials
… sasrec --users sasrec.parquet     figures of every case too, for `scripts/experiments/seeds.py --beside`

Prints figures, and with --out writes results/teachers-SOURCE.json. $LLMREC_DATA is the folder of the data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from commands import typed
from llmrec.collaborative import MODELS, fit_one
from llmrec.contracts import Items
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset, content_hash
from llmrec.metrics.ranking import Ranks, hit, ndcg, rank_targets
from llmrec.metrics.significance import bootstrap
from llmrec.recipe import Data
from llmrec.results.record import write_result


def main() -> None:
    """Print, and with --out write, the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("models", nargs="+", choices=list(MODELS))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--out", type=Path, help="folder for the JSON")
    parser.add_argument("--users", type=Path, help="Parquet file for figures of every case")
    given = parser.parse_args()
    settings = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in given.set)}
    with tempfile.TemporaryDirectory() as folder:
        facts = data.make(Data.model_validate({"source": given.source}), 42, Path(folder))
        dataset, content = Dataset.load(Path(folder)), content_hash(Path(folder))
    about = {
        "data hash": content,
        "seed": 42,
        "protocol": f"leave-one-out, {given.split}, whole catalogue, history excluded, ties in expectation; "
        "95 %, bootstrap over cases",
    }
    figures: dict[str, dict[str, Any]] = {}
    cases: dict[str, np.ndarray] = {}
    for name in given.models:
        figures[name] = measure(name, settings, dataset, given.split, cases)
        print(name, json.dumps(figures[name]), flush=True)
        if given.out:  # after each, so that stopping keeps those that are done
            own = f"-{name}" if len(given.models) == 1 else ""
            path = given.out / f"teachers-{given.source}{own}.json"
            write_result(
                path, typed(), figures, threads=torch.get_num_threads(), settings=settings, facts=facts, **about
            )
    if given.users:
        _write_users(given.users, dataset, given.split, cases)


def _write_users(path: Path, dataset: Dataset, target: str, figures: dict[str, np.ndarray]) -> None:
    """Who was asked, for what, and the figures of each."""
    asked = dataset.cases("valid" if target == "valid" else "test")
    users, items = np.array(dataset.user_ids)[asked.users], np.array(dataset.item_ids)[asked.targets]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": users, "target": items, **figures}), path)


def measure(
    name: str, settings: dict[str, object], dataset: Dataset, target: str, of_cases: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Seconds to fit and to rank, and recall and NDCG at 5, 10 and 20, with intervals.

    The figures of every case go into `of_cases`.
    """
    begin = time.perf_counter()
    model = fit_one(MODELS[name].Spec.model_validate(settings), dataset.before("valid"), Items(dataset.item_ids))
    fitted = time.perf_counter()
    cases = dataset.cases("valid" if target == "valid" else "test")
    parts = []
    for start in range(0, len(cases.users), 512):
        rows = range(start, min(start + 512, len(cases.users)))
        histories = type(cases.histories).of([cases.histories[row] for row in rows])
        parts.append(rank_targets(model.score(histories), cases.targets[start : rows.stop], histories))
    seconds = {"fit s": round(fitted - begin, 1), "rank s": round(time.perf_counter() - fitted, 1)}
    places = Ranks(np.concatenate([p.higher for p in parts]), np.concatenate([p.tied for p in parts]))
    each = {f"{kind}@{k}": metric(places, k) for k in (5, 10, 20) for kind, metric in (("hr", hit), ("ndcg", ndcg))}
    of_cases |= {f"{name} {metric}": values for metric, values in each.items()}
    return seconds | {metric: _interval(values) for metric, values in each.items()}


def _interval(values: np.ndarray) -> dict[str, float]:
    """Mean over cases and its interval."""
    return {name: round(value, 5) for name, value in asdict(bootstrap(values, 0)).items()}


if __name__ == "__main__":
    main()
