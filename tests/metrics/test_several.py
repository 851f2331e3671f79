"""Metrics for several relevant items: against every order of tied items, scikit-learn, and the case of one."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from llmrec.contracts import Sequences
from llmrec.metrics import RANKING, SEVERAL, place, place_several, place_several_in_list


def plainly(name: str, order: tuple[int, ...], relevant: list[int], k: int) -> float:
    """The metric of one order of items, written as a textbook writes it."""
    hits = [rank for rank, item in enumerate(order[:k], 1) if item in relevant]
    best = min(len(relevant), k)
    return {
        "hr": float(bool(hits)),
        "recall": len(hits) / len(relevant),
        "precision": len(hits) / k,
        "mrr": 1 / hits[0] if hits else 0.0,
        "ndcg": sum(1 / np.log2(r + 1) for r in hits) / sum(1 / np.log2(r + 1) for r in range(1, best + 1)),
        "map": sum(number / rank for number, rank in enumerate(hits, 1)) / best,
    }[name]


@pytest.mark.parametrize("name", SEVERAL)
@settings(max_examples=40, deadline=None)
@given(scores=st.lists(st.integers(0, 2), min_size=1, max_size=6), k=st.integers(1, 7), data=st.data())
def test_a_metric_is_its_mean_over_every_order_of_tied_items(name, scores, k, data):
    relevant = data.draw(st.lists(st.sampled_from(range(len(scores))), min_size=1, unique=True))
    orders = [o for o in permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in pairwise(o))]
    truth = np.mean([plainly(name, order, relevant, k) for order in orders])
    group = place_several(np.array([scores], dtype=np.float32), Sequences.of([relevant]))
    assert SEVERAL[name](group, k)[0] == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("name", SEVERAL)
def test_one_relevant_item_is_the_metric_for_one(name):
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 4, (30, 12)).astype(np.float32), rng.integers(0, 12, 30)
    group = place_several(scores, Sequences.of([[t] for t in targets]))
    np.testing.assert_allclose(SEVERAL[name](group, 5), RANKING[name](place(scores, targets), 5), atol=1e-12)


def test_scikit_learn_agrees_where_nothing_ties():
    rng = np.random.default_rng(1)
    scores = rng.random((25, 14))
    relevant = rng.random((25, 14)) < 0.3
    relevant[:, 0] |= ~relevant.any(axis=1)
    group = place_several(scores, Sequences.of([np.flatnonzero(row) for row in relevant]))
    assert SEVERAL["ndcg"](group, 6).mean() == pytest.approx(ndcg_score(relevant, scores, k=6))
    truth = [average_precision_score(*row) for row in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(SEVERAL["map"](group, 14), truth, atol=1e-12)


def test_lists_and_exclusions_are_scores_and_items_that_do_not_exist():
    rng = np.random.default_rng(2)
    scores = np.stack([rng.permutation(12) for _ in range(6)]).astype(np.float32)
    relevant = Sequences.of([rng.permutation(6)[:3] for _ in range(6)])
    seen = Sequences.of([[7, 9]] * 6)
    left = scores.copy()
    left[:, [7, 9]] = -np.inf
    lists = np.argsort(-left, axis=1)[:, :5]
    scored, listed = place_several(scores, relevant, seen), place_several_in_list(lists, relevant)
    for metric in SEVERAL.values():
        np.testing.assert_allclose(metric(scored, 5), metric(listed, 5), atol=1e-12)


@pytest.mark.parametrize("rows", [[[0], []], [[1, 1]]], ids=["none", "twice"])
def test_rows_without_a_relevant_item_or_with_one_twice_are_refused(rows):
    with pytest.raises(ValueError, match="at least one relevant"):
        place_several(np.zeros((len(rows), 3)), Sequences.of(rows))


# What RecTools 0.19 says of these lists: HitRate, Recall, Precision, MRR, NDCG(divide_by_achievable=True) and MAP at 8.
RECTOOLS = {
    "hr": 0.775,
    "recall": 0.31666666666666665,
    "precision": 0.103125,
    "mrr": 0.39312500000000006,
    "ndcg": 0.28077999774399875,
    "map": 0.2050104166666667,
}


@pytest.mark.parametrize("name", RECTOOLS)
def test_lists_are_judged_as_rectools_judges_them(name):
    lists = np.array([[(7 * row + 11 * place) % 30 for place in range(10)] for row in range(40)])
    relevant = Sequences.of([[(row * row + 13 * number) % 30 for number in range(1 + row % 5)] for row in range(40)])
    assert SEVERAL[name](place_several_in_list(lists, relevant), 8).mean() == pytest.approx(RECTOOLS[name])


@pytest.mark.parametrize("name", SEVERAL)
def test_a_list_without_any_of_several_relevant_items_is_worth_nothing(name):
    assert SEVERAL[name](place_several_in_list(np.array([[4, 5, -1]]), Sequences.of([[0, 1, 2]])), 3).tolist() == [0]
