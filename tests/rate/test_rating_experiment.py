"""Figures held against scikit-learn, closed forms and brute force."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from rate_world import world
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from llmrec.errors import RunError
from llmrec.rate.baselines import BASELINES, GlobalMean, ItemMean, MatrixFactorisation, UserItemBias, UserMean
from llmrec.rate.cases import sample_cases
from llmrec.rate.experiment import Experiment, RatingEvaluator, rating_metrics, slices_by_activity
from llmrec.rate.ratings import TEST, VALID
from rate_table import table


def made(rows: int = 400, users: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    given = draw.integers(1, 6, rows).astype(float)
    return given, draw.integers(0, users, rows), np.round(given + draw.normal(size=rows), 1)


def test_figures_agree_with_scikit_learn() -> None:
    given, _, predicted = made()
    found = rating_metrics(predicted, given, 4)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(given, predicted), abs=1e-12)
    assert found["mae"] == pytest.approx(mean_absolute_error(given, predicted), abs=1e-12)
    assert found["auc"] == pytest.approx(roc_auc_score(given >= 4, predicted), abs=1e-12)


def test_a_constant_prediction_of_the_mean_errs_by_the_standard_deviation() -> None:
    given, _, _ = made()
    found = rating_metrics(np.full(len(given), given.mean()), given, 4)
    assert found["rmse"] == pytest.approx(given.std(), abs=1e-12)
    assert found["auc"] == 0.5


def test_a_draw_is_what_scikit_learn_says_of_users_taken_that_often() -> None:
    given, users, predicted = made(120, 15)
    judge = RatingEvaluator(given, users, 4, 0, draws=20)
    drawn = judge.bootstrap(predicted)
    for number, often in enumerate(judge.draws):
        rows = np.repeat(np.arange(120), often[judge.user_index])
        assert drawn["rmse"][number] == pytest.approx(root_mean_squared_error(given[rows], predicted[rows]))
        assert drawn["mae"][number] == pytest.approx(mean_absolute_error(given[rows], predicted[rows]))
        assert drawn["auc"][number] == pytest.approx(roc_auc_score(given[rows] >= 4, predicted[rows]))


def test_intervals_hold_the_mean_and_differences_are_paired() -> None:
    given, users, predicted = made()
    found = RatingEvaluator(given, users, 4, 0).compare({"a": predicted, "b": predicted + 0.01}, ["b"])
    for metric in ("rmse", "mae", "auc"):
        assert found["a"][metric]["low"] < found["a"][metric]["mean"] < found["a"][metric]["high"]
    gap = found["a"]["minus"]["b"]
    assert gap["auc"] == {"mean": 0, "low": 0, "high": 0}  # the same order of cases in every draw
    assert gap["rmse"]["high"] - gap["rmse"]["low"] < 0.01 < found["a"]["rmse"]["high"] - found["a"]["rmse"]["low"]


def test_slices_share_out_the_cases() -> None:
    known = np.random.default_rng(0).integers(0, 50, 300)
    assert (np.sum(list(slices_by_activity(known).values()), axis=0) == 1).all()


def test_means_and_biases_are_those_of_a_loop(tmp_path: Path) -> None:
    log = world(tmp_path)
    cases = sample_cases(log, TEST, None, 5, 0)
    train = log.train
    left = log.values - log.mean
    of_item = {
        item: left[train][log.items[train] == item].sum() / ((log.items[train] == item).sum() + 5)
        for item in range(log.n_items)
    }
    for row, event in enumerate(cases.events):
        mine = train[log.users[train] == log.users[event]]
        its = log.values[train][log.items[train] == log.items[event]]
        assert UserMean(log).predict(cases)[row] == pytest.approx(log.values[mine].mean())
        assert ItemMean(log).predict(cases)[row] == pytest.approx(its.mean() if len(its) else log.mean)
        rest = sum(left[e] - of_item[log.items[e]] for e in mine) / (len(mine) + 5)
        assert UserItemBias(log).predict(cases)[row] == pytest.approx(log.mean + of_item[log.items[event]] + rest)
    assert (GlobalMean(log).predict(cases) == log.values[train].mean()).all()


def test_our_bias_model_is_lenskits(tmp_path: Path) -> None:
    """In a random split, where what is known of a user is their training part."""
    import pandas as pd
    from lenskit.basic import BiasScorer
    from lenskit.data import ItemList, from_interactions_df

    log = world(tmp_path)
    cases = sample_cases(log, TEST, None, 5, 0)
    columns = {"user_id": log.users, "item_id": log.items, "rating": log.values}
    theirs = BiasScorer(damping=5.0)
    theirs.train(from_interactions_df(pd.DataFrame({name: column[log.train] for name, column in columns.items()})))
    found = [
        theirs(int(log.users[event]), ItemList(item_ids=[int(log.items[event])])).scores()[0] for event in cases.events
    ]
    np.testing.assert_allclose(UserItemBias(log).predict(cases), found, atol=1e-4)


@pytest.mark.parametrize("split", ["random", "temporal"])
def test_whoever_learns_beats_the_global_mean_where_there_is_something_to_learn(tmp_path: Path, split: str) -> None:
    log = world(tmp_path, split, users=120)  # type: ignore[arg-type]
    experiment = Experiment.open(log, None, 10, 0, tmp_path / "out")
    experiment.run_baselines(lambda name, done: None)
    found = experiment.write_table()["systems"]
    assert list(found) == list(BASELINES)
    for name in ("user + item bias", "matrix factorisation", "small transformer"):
        assert found[name]["minus"]["global mean"]["rmse"]["high"] < 0, name
        assert found[name]["auc"]["low"] > 0.6, name


def test_an_item_nobody_rated_has_the_bias_models_answer(tmp_path: Path) -> None:
    log = world(tmp_path)
    rare = int(log.items[np.flatnonzero(log.parts == TEST)[0]])
    parts = np.where((log.items == rare) & (log.parts != TEST), VALID, log.parts)
    cold = type(log)(**{**vars(log), "parts": parts.astype(np.int8)})
    cases = sample_cases(cold, TEST, None, 5, 0)
    there = cold.items[cases.events] == rare
    np.testing.assert_array_equal(
        MatrixFactorisation(cold).predict(cases)[there], UserItemBias(cold).predict(cases)[there]
    )


def test_what_is_said_of_a_training_rating_without_itself_is_what_is_said_once_it_is_gone(tmp_path: Path) -> None:
    log = world(tmp_path)
    found = UserItemBias(log).leave_one_out()
    for event in log.train[::40]:
        train = log.train[log.train != event]
        left = log.values - log.mean  # the mean stays
        mine = (log.items[train] == log.items[event]).nonzero()[0]
        its = left[train[mine]].sum() / (len(mine) + 5)
        others = train[log.users[train] == log.users[event]]
        rest = sum(UserItemBias(log).residuals[e] for e in others) / (len(others) + 5)
        assert found[event] == pytest.approx(log.mean + its + rest)
    assert (GlobalMean(log).leave_one_out() == log.mean).all()


def test_the_table_tells_baselines_then_what_was_asked_then_what_was_trained_on_more_and_more(tmp_path: Path) -> None:
    log = world(tmp_path)
    experiment = Experiment.open(log, 5, 5, 0, tmp_path / "out")
    order = [
        "global mean", "item mean", "m2 zero-shot, parsed", "m2 3-shot, parsed", "m2 classification, 5 %",
        "m2 regression, 1 %", "m2 regression, 5 %", "m2 regression, 20 %", "m2 regression over bias, 5 %",
    ]  # fmt: skip
    for name in sorted(order):
        experiment.save(name, np.zeros(5), {})
    assert list(experiment.systems()) == order


def test_an_experiment_is_a_result_and_a_figure_that_names_every_system(tmp_path: Path) -> None:
    experiment = Experiment.open(world(tmp_path), 40, 5, 0, tmp_path / "out")
    for name, fit in BASELINES.items():
        if name in ("global mean", "user mean", "user + item bias"):
            experiment.save(name, fit(experiment.ratings, 0).predict(experiment.cases), {})
    experiment.save("m 3-shot, parsed", experiment.ratings.values[experiment.cases.events], {})
    found = experiment.write_table()
    result = table(tmp_path / "out", "made", tmp_path)
    assert json.loads(result.read_text())["figures"] == found["systems"]
    assert json.loads(result.read_text())["protocol"] == found["protocol"]
    drawn = (tmp_path / "rate-made.svg").read_text()
    assert all(name in drawn for name in found["systems"])
    assert found["systems"]["m 3-shot, parsed"]["rmse"]["mean"] == 0


@pytest.mark.parametrize("held", [{"mine.txt": "x"}, {"figures.json": "{}"}, {"protocol.json": "[]"}, {".git": ""}])
def test_a_folder_with_files_of_others_is_left_as_it_is(held: dict[str, str], tmp_path: Path) -> None:
    log, out = world(tmp_path), tmp_path / "out"
    out.mkdir()
    for name, content in held.items():
        (out / name).write_text(content)
    with pytest.raises(RunError, match=r"holds other files and no experiment .*--out DIR"):
        Experiment.open(log, 5, 5, 0, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == held


@pytest.mark.parametrize("name", ["file", "file/below", "round", "pipe", "x" * 300, "a\0b"])
def test_a_place_that_can_be_no_folder_is_told(name: str, tmp_path: Path) -> None:
    log = world(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="--out DIR"):
        Experiment.open(log, 5, 5, 0, tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"
