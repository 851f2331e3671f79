"""What evaluation tells beside accuracy: against loops over the lists that it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmrec.collaborative import Popularity
from llmrec.contracts import Items
from llmrec.data.dataset import Dataset
from llmrec.evaluate import list_quality


@pytest.fixture(scope="module")
def told(tiny_run: Path) -> dict:
    return json.loads((tiny_run / "evaluate-test" / "metrics.json").read_text())


def test_figures_beyond_accuracy_are_those_of_the_lists(tiny_run: Path, told: dict) -> None:
    dataset = Dataset.load(tiny_run / "data")
    rows = pq.read_table(tiny_run / "evaluate-test" / "recommendations.parquet").to_pylist()
    found = told["beyond"]["nano"]
    shown = [row["item_id"] for row in rows if row["rank"] <= 10]
    assert found["coverage"] == pytest.approx(len(set(shown)) / dataset.n_items)
    holders = dict.fromkeys(dataset.item_ids, 0)
    train = dataset.before("valid")
    for history in train:
        for item in set(history.tolist()):
            holders[dataset.item_ids[item]] += 1
    surprise = [np.log2(len(train) / max(holders[item], 0.5)) for item in shown]
    assert found["novelty bits"] == pytest.approx(np.mean(surprise), rel=1e-5)


def test_slices_share_out_the_cases_and_their_means_add_up(told: dict) -> None:
    slices = told["slices"]
    for names in (("head items", "tail items", "cold items"), ("short histories", "long histories")):
        parts = [slices[name] for name in names if name in slices]
        assert sum(part["cases"] for part in parts) == told["protocol"]["cases"]
        for system, metrics in told["systems"].items():
            for metric, figure in metrics.items():
                total = sum(part["cases"] * part["systems"][system][metric] for part in parts)
                assert total / told["protocol"]["cases"] == pytest.approx(figure["mean"])


def test_every_system_is_judged_beyond_accuracy(told: dict) -> None:
    assert set(told["beyond"]) == set(told["systems"])
    assert told["beyond"]["popularity"]["serendipity"] == 0


def test_popularity_shows_least_and_lifts_most(told: dict) -> None:
    popular = told["beyond"]["popularity"]
    for other in told["beyond"].values():
        assert popular["coverage"] <= other["coverage"] + 1e-9
        assert popular["popularity lift"] >= other["popularity lift"] - 1e-9


def test_the_best_items_are_the_best_and_excluded_ones_never_among_them(tiny_run: Path) -> None:
    dataset = Dataset.load(tiny_run / "data")
    cases = dataset.cases("test")
    scores = Popularity().fit(dataset.before("valid"), Items(dataset.item_ids)).score(cases.histories)
    lists = list_quality.top_k(scores, cases.histories, 7)
    for row, history in enumerate(cases.histories):
        left = scores[row].copy()
        left[history] = -np.inf
        assert sorted(left[lists[row]], reverse=True) == sorted(left, reverse=True)[:7]
        assert not set(lists[row].tolist()) & set(history.tolist())
    assert list_quality.top_k(np.array([[1.0, -np.inf, 2.0]]), None, 5).tolist() == [[2, 0, -1, -1, -1]]


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_the_best_items_are_those_of_a_whole_stable_sort_in_the_mixed_order(levels: int) -> None:
    draw = np.random.default_rng(levels)
    scores = draw.integers(0, levels, (30, 25)).astype(np.float32)
    scores[draw.random(scores.shape) < 0.3] = -np.inf
    mixed = np.random.default_rng(0).permutation(25)
    for row, found in zip(scores, list_quality.top_k(scores, None, 9), strict=True):
        sorted_whole = sorted(mixed.tolist(), key=lambda item: -row[item])[:9]  # Python's sort is stable
        assert found.tolist() == [item if row[item] > -np.inf else -1 for item in sorted_whole]
