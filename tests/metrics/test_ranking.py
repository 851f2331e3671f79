"""Ranking metrics against enumerated tie orders, hand-written fractions and scikit-learn."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from llmrec.contracts import Sequences
from llmrec.metrics.ranking import (
    RANKING,
    UNRANKED,
    Ranks,
    hit,
    mrr,
    ndcg,
    precision,
    rank_in_lists,
    rank_targets,
    weighted_mean,
)


def worth_of_rank(name: str, rank: int, k: int) -> float:
    """What place `rank` (from 0) is worth, written plainly."""
    if rank >= k:
        return 0.0
    once = 1 / (rank + 1)
    return {"hr": 1.0, "recall": 1.0, "ndcg": 1 / np.log2(rank + 2), "mrr": once, "map": once, "precision": 1 / k}[name]


@pytest.mark.parametrize("name", RANKING)
@given(scores=st.lists(st.integers(0, 2), min_size=1, max_size=5), k=st.integers(1, 6), data=st.data())
def test_a_metric_is_its_mean_over_every_order_of_tied_items(name, scores, k, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    orders = [o for o in permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in pairwise(o))]
    truth = np.mean([worth_of_rank(name, order.index(target), k) for order in orders])
    places = rank_targets(np.array([scores], dtype=np.float32), np.array([target]))
    assert RANKING[name](places, k)[0] == pytest.approx(truth, abs=1e-12)


def test_hand_written_fractions():
    # Two items above the target, one beside it: third or fourth place, each with chance 1/2.
    places = Ranks(np.array([2]), np.array([1]))
    assert hit(places, 2)[0] == 0
    assert hit(places, 3)[0] == pytest.approx(1 / 2)
    assert hit(places, 4)[0] == 1
    assert mrr(places)[0] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert ndcg(places, 3)[0] == pytest.approx((1 / 2) / 2)  # log2(3 + 1) = 2
    assert ndcg(places, 5)[0] == pytest.approx((1 / 2 + 1 / np.log2(5)) / 2)


@pytest.mark.parametrize("levels", [3, 1000])
def test_ndcg_agrees_with_scikit_learn_with_and_without_ties(levels):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, levels, (40, 12)).astype(np.float64)
    targets = rng.integers(0, 12, 40)
    relevant = np.eye(12)[targets]
    for k in (1, 5, 12):
        assert ndcg(rank_targets(scores, targets), k).mean() == pytest.approx(
            ndcg_score(relevant, scores, k=k), abs=1e-12
        )


@given(seed=st.integers(0, 10_000))
def test_excluding_items_is_as_if_they_did_not_exist(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (3, 9)).astype(np.float32)
    targets = rng.integers(0, 9, 3)
    excluded = [rng.integers(0, 9, rng.integers(0, 8)) for _ in range(3)]
    excluded = [items[items != target] for items, target in zip(excluded, targets, strict=True)]
    before = scores.copy()
    places = rank_targets(scores, targets, Sequences.of(excluded))
    assert np.array_equal(scores, before)
    for row, (items, target) in enumerate(zip(excluded, targets, strict=True)):
        kept = [i for i in range(9) if i not in items and i != target]
        assert places.higher[row] == sum(scores[row, i] > scores[row, target] for i in kept)
        assert places.tied[row] == sum(scores[row, i] == scores[row, target] for i in kept)


def test_an_excluded_target_is_a_miss_however_high_it_scores():
    places = rank_targets(np.array([[9.0, 1.0, 0.0]]), np.array([0]), Sequences.of([[0, 0]]))
    assert places.higher[0] == UNRANKED
    assert [hit(places, 3)[0], ndcg(places, 3)[0], mrr(places)[0]] == [0, 0, 0]


def test_items_outside_a_beam_tie_at_minus_infinity():
    scores = np.array([[5.0, -np.inf, -np.inf, -np.inf]])
    assert hit(rank_targets(scores, np.array([2])), 2)[0] == pytest.approx(1 / 3)


def test_a_constant_scorer_is_worth_chance_and_no_more():
    places = rank_targets(np.zeros((7, 50)), np.arange(7))
    assert np.allclose(hit(places, 10), 10 / 50)


def test_scores_that_are_not_numbers_are_refused_since_they_would_look_perfect():
    with pytest.raises(ValueError, match="NaN"):
        rank_targets(np.array([[np.nan, 1.0]]), np.array([0]))


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="targets"):
        rank_targets(np.zeros((2, 3)), np.array([0]))
    with pytest.raises(ValueError, match="targets"):
        rank_targets(np.zeros((2, 3)), np.array([0, 1]), Sequences.of([[0]]))
    with pytest.raises(ValueError, match="targets"):
        rank_in_lists(np.zeros((2, 3), dtype=int), np.array([0]))


@given(seed=st.integers(0, 10_000))
def test_a_list_without_ties_is_worth_what_its_scores_are(seed):
    rng = np.random.default_rng(seed)
    scores = np.stack([rng.permutation(15) for _ in range(4)]).astype(np.float32)
    targets = rng.integers(0, 15, 4)
    listed = rank_in_lists(np.argsort(-scores, axis=1)[:, :6], targets)
    scored = rank_targets(scores, targets)
    for metric in RANKING.values():
        assert np.array_equal(metric(listed, 6), metric(scored, 6))


def test_a_short_list_and_an_empty_one_only_miss():
    places = rank_in_lists(np.array([[3, -1, -1], [4, 5, -1]]), np.array([3, 6]))
    assert places.higher.tolist() == [0, UNRANKED]
    assert rank_in_lists(np.zeros((2, 0), dtype=int), np.array([0, 1])).higher.tolist() == [UNRANKED, UNRANKED]


@given(higher=st.lists(st.integers(0, 30), min_size=1), k=st.integers(1, 20))
def test_metrics_stay_between_nothing_and_a_hit_and_grow_with_k(higher, k):
    places = Ranks(np.array(higher), np.array(higher) % 4)
    for metric in RANKING.values():
        small, large = metric(places, k), metric(places, k + 1)
        if metric is precision:
            small, large = small * k, large * (k + 1)  # per place of the list it may fall
        assert (small >= 0).all() and (large <= 1 + 1e-12).all() and (small <= large + 1e-12).all()
        assert (small <= hit(places, k) + 1e-12).all()


def test_weighted_hits_are_the_share_of_the_worth_that_was_won():
    hits, prices = np.array([1.0, 0.0, 1.0, 1.0]), np.array([30.0, 50.0, 20.0, np.nan])
    assert weighted_mean(hits, prices) == pytest.approx((30 + 20) / (30 + 50 + 20))
    assert weighted_mean(hits[:3], np.ones(3)) == pytest.approx(hits[:3].mean())
    with pytest.raises(ValueError, match="above 0"):
        weighted_mean(hits, np.full(4, np.nan))
