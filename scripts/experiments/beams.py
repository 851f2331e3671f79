"""What beams lose against scoring every item: a run's users, ranked by several widths and exactly.

python scripts/experiments/beams.py runs/beauty-nano-seed42 --users 300 --beams 10 20 50 100
… --split test                         of the test part, not to choose by; of validation otherwise

Writes results/RUN-beams.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from commands import language_model, typed
from llmrec.contracts import Request
from llmrec.data.dataset import Dataset
from llmrec.decode.generative import Generative
from llmrec.evaluate.list_quality import top_k
from llmrec.metrics.ranking import hit, ndcg, rank_in_lists
from llmrec.recipe_file import fingerprint
from llmrec.results.record import write_result
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.seed import stream

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--split", choices=["valid", "test"], default="valid")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    recipe, dataset = recipe_of(given.run), Dataset.load(RunFolder(given.run).data)
    recommender = language_model(given.run)
    cases = dataset.cases(given.split)
    drawn = stream(recipe.seed, "beams").permutation(len(cases.users))[: given.users]
    chosen = drawn[np.argsort(cases.histories.lengths[drawn], kind="stable")]  # like lengths share a batch
    shut = recipe.evaluate.exclude_seen
    histories = [cases.histories[row] for row in chosen]
    requests = [Request(history, denied=history if shut else history[:0]) for history in histories]
    lists, seconds = ranked(recommender, requests, given)
    figures = told(lists, cases.targets[chosen], seconds)
    about = {"recipe hash": fingerprint(recipe), "seed": recipe.seed, "users": len(chosen), "target": given.split}
    about |= {"source": recipe.data.source}
    path = given.out / f"{given.run.name}-beams.json"
    write_result(path, typed(), figures, exclude_seen=shut, **about)
    for name, one in figures.items():
        print(name, one)
    print(f"written: {path}")


def ranked(
    recommender: Generative, requests: list[Request], given: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Way → (users, K) items, and way → seconds."""
    lists: dict[str, list[np.ndarray]] = {name: [] for name in [*map(str, given.beams), "exact"]}
    seconds = dict.fromkeys(lists, 0.0)
    for start in range(0, len(requests), given.batch):
        batch = requests[start : start + given.batch]
        for name, found in lists.items():
            begin = time.perf_counter()
            if name == "exact":
                found.append(top_k(recommender.score(batch), None, K))
            else:
                recommender.beams = int(name)
                found.append(recommender.rank(batch, K).items)
            seconds[name] += time.perf_counter() - begin
    return {name: np.concatenate(found) for name, found in lists.items()}, seconds


def told(lists: dict[str, np.ndarray], targets: np.ndarray, seconds: dict[str, float]) -> dict[str, Any]:
    """Way → recall and NDCG at 10, the share of the exact first ten that it gives, seconds."""
    found = {}
    for name, items in lists.items():
        places = rank_in_lists(items, targets)
        same = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(items, lists["exact"], strict=True)])
        found[name] = {
            "hr@10": round(float(hit(places, K).mean()), 5),
            "ndcg@10": round(float(ndcg(places, K).mean()), 5),
            "of the exact ten": round(float(same), 4),
            "seconds": round(seconds[name], 1),
        }
    return found


if __name__ == "__main__":
    main()
