"""Spread, novelty, variety and surprise: against loops over pairs, and lists whose answer is known."""

import math
from itertools import combinations

import numpy as np
import pytest

from llmrec.contracts import Sequences
from llmrec.metrics.beyond_accuracy import (
    category_diversity,
    coverage,
    diversity,
    entropy,
    exposures,
    gini,
    novelty,
    popularity_lift,
    serendipity,
)

RNG = np.random.default_rng(0)
LISTS = np.stack([RNG.permutation(20)[:6] for _ in range(15)])
SHORT = np.where(np.arange(6) < RNG.integers(0, 7, (15, 1)), LISTS, -1)  # some empty, some of one item


def filled(row: np.ndarray) -> list[int]:
    return [int(item) for item in row if item >= 0]


def test_exposure_is_counted_and_an_item_beyond_the_catalogue_refused():
    truth = [sum(item in row for row in SHORT) for item in range(20)]
    assert exposures(SHORT, 20).tolist() == truth
    with pytest.raises(ValueError, match="catalogue ends at 8"):
        exposures(np.array([[9]]), 9)


@pytest.mark.parametrize(
    ("counts", "found", "uneven", "bits"),
    [([3, 3, 3, 3], 1, 0, 2), ([8, 0, 0, 0], 1 / 4, 3 / 4, 0), ([1, 1, 0, 0], 1 / 2, 1 / 2, 1)],
    ids=["even", "one", "half"],
)
def test_spread_of_known_allocations(counts, found, uneven, bits):
    counts = np.array(counts)
    assert (coverage(counts), gini(counts), entropy(counts)) == (found, pytest.approx(uneven), pytest.approx(bits))


def test_gini_is_the_mean_difference_over_twice_the_mean():
    counts = RNG.integers(0, 50, 30)
    truth = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert gini(counts) == pytest.approx(truth)


def test_novelty_is_the_mean_surprise_in_bits():
    users = np.arange(20)
    for row, told in zip(SHORT, novelty(SHORT, users, 64), strict=True):
        truth = [math.log2(64 / max(users[item], 0.5)) for item in filled(row)]
        assert np.isnan(told) if not truth else told == pytest.approx(np.mean(truth), rel=1e-6)


def test_diversity_is_the_mean_cosine_distance_of_pairs():
    vectors = RNG.normal(size=(20, 5))
    vectors[3] = 0
    for row, told in zip(SHORT, diversity(SHORT, vectors), strict=True):
        pairs = []
        for a, b in combinations(filled(row), 2):
            length = np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b])
            pairs.append(1 - (vectors[a] @ vectors[b] / length if length else 0))
        assert np.isnan(told) if not pairs else told == pytest.approx(np.mean(pairs), abs=1e-6)


def test_category_diversity_is_the_share_of_pairs_that_differ():
    category = RNG.integers(0, 3, 20)
    for row, told in zip(SHORT, category_diversity(SHORT, category), strict=True):
        pairs = [category[a] != category[b] for a, b in combinations(filled(row), 2)]
        assert np.isnan(told) if not pairs else told == pytest.approx(np.mean(pairs))


def test_what_everybody_is_shown_is_never_serendipity():
    lists, obvious = np.array([[4, 5], [4, 5], [4, -1]]), np.array([[5, 6]] * 3)
    assert serendipity(lists, np.array([4, 5, 9]), obvious).tolist() == [1, 0, 0]


def test_popularity_lift_compares_with_the_same_users_histories():
    users = np.array([10.0, 2.0, 4.0])
    histories = Sequences.of([[1, 2], [2], []])
    # Means of histories 3 and 4, of lists 10 and 7; the user without a history is left out.
    assert popularity_lift(np.array([[0, -1], [0, 2], [0, 0]]), histories, users) == pytest.approx(8.5 / 3.5 - 1)
    assert popularity_lift(np.array([[1, 2]]), Sequences.of([[1, 2]]), users) == pytest.approx(0)
