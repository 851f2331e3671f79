"""Intervals and p-values against closed forms, enumeration, and known distributions."""

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest

from llmrec.metrics import significance
from llmrec.metrics.significance import bootstrap, paired


def test_the_interval_of_a_share_is_near_its_closed_form():
    values = np.repeat([1.0, 0.0], [200, 800])
    interval = bootstrap(values, seed=0, draws=20_000)
    spread = 1.96 * np.sqrt(0.2 * 0.8 / 1000)  # normal approximation of a binomial share
    assert interval.mean == pytest.approx(0.2)
    assert interval.low == pytest.approx(0.2 - spread, abs=0.002)
    assert interval.high == pytest.approx(0.2 + spread, abs=0.002)


def test_drawing_over_distinct_values_is_drawing_over_users():
    rng = np.random.default_rng(1)
    values = rng.choice([0.0, 0.3, 1.0], 60)
    plain = values[rng.integers(0, 60, (20_000, 60))].mean(axis=1)
    interval = bootstrap(values, seed=2, draws=20_000)
    assert interval.low == pytest.approx(np.quantile(plain, 0.025), abs=0.006)
    assert interval.high == pytest.approx(np.quantile(plain, 0.975), abs=0.006)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda rng: rng.normal(3, 2, 80), 3.0),
        (lambda rng: rng.exponential(1.5, 150), 1.5),
        (lambda rng: (rng.random(300) < 0.1).astype(float), 0.1),
    ],
    ids=["normal", "exponential", "hits"],
)
def test_intervals_hold_the_true_mean_as_often_as_they_promise(draw, mean):
    rng = np.random.default_rng(7)
    trials = 400
    intervals = [bootstrap(draw(rng), seed=t, draws=400) for t in range(trials)]
    held = np.mean([i.low <= mean <= i.high for i in intervals])
    # Five standard errors of 400 trials below and above .95, less what 400 draws and skew cost.
    assert 0.88 <= held <= 0.995


def test_the_same_seed_answers_the_same_and_the_order_of_users_does_not_matter():
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    order = rng.permutation(50)
    assert bootstrap(a, 5) == bootstrap(a, 5) != bootstrap(a, 6)
    assert bootstrap(a[order], 5).low == pytest.approx(bootstrap(a, 5).low, abs=1e-12)
    assert paired(a, b, 5) == paired(a, b, 5)
    assert paired(a[order], b[order], 5).p == paired(a, b, 5).p


def test_blocks_of_draws_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    whole = bootstrap(a, 3), paired(a, b, 3)
    monkeypatch.setattr(significance, "CELLS", 100)
    for blocked, at_once in zip((bootstrap(a, 3), paired(a, b, 3)), whole, strict=True):
        assert astuple(blocked) == pytest.approx(astuple(at_once), abs=1e-12)


@pytest.mark.parametrize("difference", [[1, 1, -1, 0, 0.5, 2, -0.5, 1], [1, 1, 1, 1, 1, 1], [0.3, -0.2, 0.1, 0.4]])
def test_the_p_value_is_the_share_of_all_sign_flips_at_least_as_extreme(difference):
    d = np.array(difference)
    flips = np.array(list(product([-1, 1], repeat=len(d))))
    truth = (np.abs(flips @ d) >= abs(d.sum()) - 1e-12).mean()
    assert paired(d, np.zeros(len(d)), seed=0, draws=40_000).p == pytest.approx(truth, abs=0.012)


def test_a_system_against_itself_differs_by_nothing():
    a = np.random.default_rng(0).random(40)
    difference = paired(a, a, 0)
    assert (difference.mean, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_p_is_never_zero_and_a_clear_gain_is_seen():
    difference = paired(np.ones(200), np.zeros(200), 0, draws=99)
    assert (difference.mean, difference.low, difference.high, difference.p) == (1, 1, 1, 1 / 100)


def test_swapping_the_systems_mirrors_the_difference():
    rng = np.random.default_rng(3)
    a, b = rng.random(80), rng.random(80)
    there, back = paired(a, b, 0, draws=20_000), paired(b, a, 0, draws=20_000)
    assert there.mean == -back.mean
    assert there.low == pytest.approx(-back.high, abs=0.005)
    assert there.p == pytest.approx(back.p, abs=0.02)


def test_under_no_difference_p_is_uniform_enough():
    rng = np.random.default_rng(11)
    ps = [paired(rng.normal(size=40), rng.normal(size=40), t, draws=300).p for t in range(400)]
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.08)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap(np.zeros(0), 0)
    with pytest.raises(ValueError, match="finite"):
        bootstrap(np.array([0.0, np.nan]), 0)
    with pytest.raises(ValueError, match="same users"):
        paired(np.zeros(3), np.zeros(4), 0)
