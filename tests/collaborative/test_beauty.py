"""Four baselines on Amazon Beauty meet the table of the data's README, when the data is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from llmrec.collaborative import MODELS, fit
from llmrec.contracts import Items, Sequences
from llmrec.metrics.ranking import Ranks, hit, ndcg, rank_targets

# shared/data/README.md: R@5, N@5, R@10, N@10, R@20, N@20. Its row for popularity, alone, gives the target the best of
# its tied places, against what the README says of ties; in expectation popularity is the second row here.
BEST_OF_TIES = [0.0081, 0.0044, 0.0120, 0.0056, 0.0204, 0.0076]
TABLE = {
    "popularity": [0.0074, 0.0041, 0.0115, 0.0054, 0.0201, 0.0075],
    "ease": [0.0435, 0.0281, 0.0670, 0.0356, 0.0952, 0.0427],
    "ease-recent": [0.0505, 0.0338, 0.0744, 0.0414, 0.1040, 0.0489],
    "markov": [0.0530, 0.0399, 0.0702, 0.0454, 0.0898, 0.0503],
}


def beauty() -> Path:
    """Where Beauty lies on this machine; skips the test elsewhere."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    for folder in filter(None, [os.environ.get("LLMREC_DATA"), str(beside)]):
        file = Path(folder) / "amazon-beauty-2014" / "interactions.parquet"
        if file.is_file():
            return file
    pytest.skip("Amazon Beauty is not on this machine: set LLMREC_DATA to a folder that holds amazon-beauty-2014.")


def full_histories(file: Path) -> tuple[Sequences, int]:
    """Every user's whole history, and the number of items."""
    import pyarrow.parquet as pq

    table = pq.read_table(file).combine_chunks()
    users, items = (table[c].chunk(0).dictionary_encode().indices.to_numpy() for c in ("user_id", "item_id"))
    order = np.lexsort((table["timestamp"].to_numpy(), users))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users))])
    return Sequences(offsets, items[order].astype(np.int32)), int(items.max()) + 1


def figures(places: Ranks) -> list[float]:
    """Recall and NDCG at 5, 10 and 20, in the order of the table."""
    return [float(metric(places, k).mean()) for k in (5, 10, 20) for metric in (hit, ndcg)]


@pytest.mark.parametrize(
    "names",
    [
        ["popularity", "markov"],
        pytest.param(
            ["ease", "ease-recent"],
            marks=pytest.mark.slow("inverts a matrix of 12,101 items, 40 s on a core"),
        ),
    ],
    ids="-".join,
)
def test_the_baselines_meet_the_published_table_of_beauty(names):
    full, n_items = full_histories(beauty())
    seen, targets = [row[:-1] for row in full], np.array([row[-1] for row in full])
    train, specs = Sequences.of([row[:-2] for row in full]), [MODELS[name].Spec() for name in names]
    for name, model in fit(specs, train, Items.numbered(n_items)).items():
        parts = []
        for start in range(0, len(full), 512):
            histories = Sequences.of(seen[start : start + 512])
            parts.append(rank_targets(model.score(histories), targets[start : start + 512], histories))
        places = Ranks(np.concatenate([p.higher for p in parts]), np.concatenate([p.tied for p in parts]))
        np.testing.assert_allclose(figures(places), TABLE[name], atol=0.0005, err_msg=name)
        if name == "popularity":
            best = Ranks(places.higher, np.zeros_like(places.tied))
            np.testing.assert_allclose(figures(best), BEST_OF_TIES, atol=0.0001)
