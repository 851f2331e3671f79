"""Figures are what a loop over recommendations.parquet gives."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import llmrec
from llmrec.collaborative import fit
from llmrec.contracts import Items
from llmrec.data.dataset import Dataset
from llmrec.recipe_file import load


@pytest.fixture(scope="module")
def folder(tiny_run: Path) -> Path:
    return tiny_run / "evaluate-test"


@pytest.fixture(scope="module")
def truth(tiny_run: Path) -> dict[str, str]:
    rows = Dataset.load(tiny_run / "data").interactions.to_pylist()
    return {row["user_id"]: row["item_id"] for row in rows if row["split"] == "test"}


def lists(folder: Path) -> dict[str, list[tuple[int, str, float]]]:
    found = defaultdict(list)
    for row in pq.read_table(folder / "recommendations.parquet").to_pylist():
        found[row["user_id"]].append((row["rank"], row["item_id"], row["score"]))
    return found


def gain(metric: str, place: int | None) -> float:
    kind, k = metric.split("@")
    if place is None or place > int(k):
        return 0.0
    return {"hr": 1.0, "ndcg": 1 / math.log2(place + 1), "mrr": 1 / place}[kind]


def test_every_user_gets_a_whole_list_of_distinct_real_items(
    folder: Path, truth: dict[str, str], tiny_run: Path
) -> None:
    items = set(Dataset.load(tiny_run / "data").item_ids)
    found = lists(folder)
    assert set(found) == set(truth)
    for rows in found.values():
        assert [rank for rank, _, _ in rows] == list(range(1, 11)), "as deep as the baselines' lists"
        assert len({item for _, item, _ in rows} & items) == 10
        scores = [score for _, _, score in rows]
        assert scores == sorted(scores, reverse=True)


def test_the_model_s_figures_are_those_of_its_lists(folder: Path, truth: dict[str, str]) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    per_user = pq.read_table(folder / "per_user.parquet").to_pydict()
    places = {u: next((r for r, item, _ in rows if item == truth[u]), None) for u, rows in lists(folder).items()}
    for metric, told in metrics["systems"]["nano"].items():
        gains = [gain(metric, places[user]) for user in per_user["user_id"]]
        np.testing.assert_allclose(per_user[f"nano {metric}"], gains, rtol=1e-6)
        assert told["mean"] == pytest.approx(np.mean(gains))
        assert told["low"] <= told["mean"] <= told["high"]


def test_a_wording_that_training_never_saw_is_a_figure_beside_that_of_the_served_one(
    folder: Path, truth: dict[str, str], tiny_run: Path
) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    other, data = metrics["held_out_template"], Dataset.load(tiny_run / "data", texts=False)
    assert metrics["protocol"]["template"] == "trained"
    assert other["cases"] == len(truth)
    opened, cases = llmrec.load(tiny_run, held_out_prompt=True), data.cases("test")
    hits = []
    for row, user in enumerate(cases.users):
        history = [data.item_ids[item] for item in cases.histories[row]]
        given = [item for item, _ in opened.recommend(history, 5)]
        hits.append(truth[data.user_ids[user]] in given)
    assert other["figures"]["hr@5"]["mean"] == pytest.approx(np.mean(hits))
    own = metrics["systems"]["nano"]["hr@5"]["mean"]
    assert other["difference"]["hr@5"]["mean"] == pytest.approx(np.mean(hits) - own)


def test_baselines_rank_every_item_from_the_same_histories_with_ties_in_expectation(
    folder: Path, tiny_run: Path
) -> None:
    dataset = Dataset.load(tiny_run / "data")
    per_user = pq.read_table(folder / "per_user.parquet").to_pydict()
    cases = dataset.cases("test")
    users, targets = cases.users, cases.targets
    before = dataset.before("test")
    specs = load(tiny_run / "recipe.yaml").evaluate.baselines
    for name, model in fit(specs, dataset.before("valid"), Items(dataset.item_ids)).items():
        scores = model.score(type(before).of([before[user] for user in users]))
        for row, target in enumerate(targets):
            above, level = (scores[row] > scores[row, target]).sum(), (scores[row] == scores[row, target]).sum()
            for metric in ("hr@1", "hr@5", "ndcg@5"):
                expected = np.mean([gain(metric, above + tie) for tie in range(1, level + 1)])
                assert per_user[f"{name} {metric}"][row] == pytest.approx(expected, abs=1e-6)


def test_paired_differences_are_differences_of_the_same_users(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    per_user = pq.read_table(folder / "per_user.parquet").to_pydict()
    for name, told in metrics["paired"].items():
        for metric, pair in told.items():
            difference = np.subtract(per_user[f"nano {metric}"], per_user[f"{name} {metric}"]).mean()
            assert pair["mean"] == pytest.approx(difference)
            assert pair["low"] <= difference <= pair["high"]


def test_examples_show_what_was_recommended(folder: Path, truth: dict[str, str], tiny_run: Path) -> None:
    titles = {row["item_id"]: row["title"] for row in Dataset.load(tiny_run / "data").items.to_pylist()}
    found = lists(folder)
    for example in json.loads((folder / "examples.json").read_text()):
        assert example["recommended"] == [titles[item] for _, item, _ in found[example["user_id"]]]
        assert example["held_out"] == titles[truth[example["user_id"]]]


@pytest.mark.parametrize("split", ["temporal", "cold-items", "cold-users"])
def test_every_held_out_event_is_a_case_under_any_split(split: str, tiny_run: Path, tmp_path: Path) -> None:
    import llmrec
    from llmrec.data.clean import clean
    from llmrec.data.sources import read
    from llmrec.evaluate.ranking import evaluate

    recipe = load(
        tiny_run / "recipe.yaml",
        [f"data.split={split}", "data.max_users=12", "data.holdout_fraction=0.3", "evaluate.weight_column=price"],
    )
    cleaned = clean(read(recipe.data), recipe.data, recipe.seed)
    prices = cleaned.items.append_column("price", [[str(n) if n % 3 else "?" for n in range(cleaned.items.num_rows)]])
    dataset = Dataset(cleaned.interactions, prices, {"split": split})
    fitted = fit(recipe.evaluate.baselines, dataset.before("valid"), Items(dataset.item_ids))
    recommender = llmrec.load(tiny_run).recommender
    told = evaluate(recommender, "nano", dataset, recipe.evaluate, fitted, 0, tmp_path, lambda done: None)
    cases = dataset.cases("test")
    per_user = pq.read_table(tmp_path / "per_user.parquet")
    assert per_user["target"].to_pylist() == [dataset.item_ids[item] for item in cases.targets]
    assert told["protocol"]["split"] == split
    assert (told["protocol"]["cases"], told["protocol"]["users"]) == (len(cases.users), len(set(cases.users.tolist())))
    priced = cases.targets % 3 > 0
    hits = per_user["markov hr@5"].to_numpy()
    assert told["weighted"]["systems"]["markov"]["hr@5"] == pytest.approx(
        hits[priced] @ cases.targets[priced] / cases.targets[priced].sum()
    )
