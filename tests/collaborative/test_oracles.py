"""Each teacher against its definition, written as loops."""

import numpy as np
import pytest

from llmrec.collaborative import Ease, EaseRecent, Markov, MarkovEase, Popularity, fit_teachers
from llmrec.contracts import Sequences

ITEMS = 12


def random_rows(seed: int, rows: int, longest: int = 30) -> list[list[int]]:
    """Histories of 0 to `longest` events, with repeats."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, ITEMS, rng.integers(0, longest)).tolist() for _ in range(rows)]


TRAIN = random_rows(0, 150, longest=8)
ASKED = [*random_rows(1, 80), [], [3], [4, 4]]
BINARY = np.array([[float(item in row) for item in range(ITEMS)] for row in TRAIN])


def ease_weights(l2: float) -> np.ndarray:
    """(ITEMS, ITEMS) by ridge regression of each item on all others, which is what EASE's closed form solves."""
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = [i for i in range(ITEMS) if i != item]
        x = BINARY[:, others]
        weights[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(ITEMS - 1), x.T @ BINARY[:, item])
    return weights


def test_popularity_counts_users_not_events():
    scores = Popularity().fit(Sequences.of(TRAIN), ITEMS).score(Sequences.of(ASKED))
    assert np.array_equal(scores, np.tile(BINARY.sum(0), (len(ASKED), 1)))


@pytest.mark.parametrize("l2", [1.0, 200.0])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(l2):
    scores = Ease(l2).fit(Sequences.of(TRAIN), ITEMS).score(Sequences.of(ASKED))
    vectors = np.array([[float(item in row) for item in range(ITEMS)] for row in ASKED])
    np.testing.assert_allclose(scores, vectors @ ease_weights(l2), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("decay", "window"), [(0.85, 20), (0.5, 3)])
def test_ease_on_recent_items_decays_them_and_keeps_the_largest_of_repeats(decay, window):
    scores = EaseRecent(decay, window).fit(Sequences.of(TRAIN), ITEMS).score(Sequences.of(ASKED))
    vectors = np.zeros((len(ASKED), ITEMS))
    for row, history in enumerate(ASKED):
        for back, item in enumerate(reversed(history[-window:])):
            vectors[row, item] = max(vectors[row, item], decay**back)
    np.testing.assert_allclose(scores, vectors @ ease_weights(200.0), rtol=1e-3, atol=1e-5)


def test_markov_and_ease_add_their_scores_as_shares_of_their_best():
    train, asked = Sequences.of(TRAIN), Sequences.of(ASKED)
    scores, parts = MarkovEase().fit(train, ITEMS).score(asked), [Markov(), EaseRecent()]
    wanted = np.zeros_like(scores)
    for part in parts:
        for row, found in enumerate(part.fit(train, ITEMS).score(asked)):
            wanted[row] += [max(value, 0) / found.max() if found.max() > 0 else 0 for value in found]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-6)
    assert scores.max() == pytest.approx(2) and scores.min() == 0


@pytest.mark.parametrize(("window", "fade"), [(3, 0.5), (1, 0.0), (5, 1.0)])
def test_markov_adds_inverse_distances_and_divides_popularity_down(window, fade):
    counts = np.zeros((ITEMS, ITEMS))
    for row in TRAIN:
        for i, before in enumerate(row):
            for j in range(i + 1, min(i + window + 1, len(row))):
                counts[before, row[j]] += 1 / (j - i)
    users = BINARY.sum(0)
    table = counts / np.sqrt(np.outer(users + 1, users + 1))
    truth = np.zeros((len(ASKED), ITEMS))
    for row, history in enumerate(ASKED):
        for back, worth in ((1, 1.0), (2, fade)):
            if len(history) >= back:
                truth[row] += worth * table[history[-back]]
    scores = Markov(window, fade).fit(Sequences.of(TRAIN), ITEMS).score(Sequences.of(ASKED))
    np.testing.assert_allclose(scores, truth, rtol=1e-5, atol=1e-7)


def test_the_inverse_by_halves_is_the_inverse_in_double_precision():
    rng = np.random.default_rng(0)
    # 1,100 items split twice; popular items make the counts as uneven as real ones are.
    train = Sequences.of(np.unique(rng.zipf(1.3, 30) % 1100) for _ in range(3000))
    binary = np.zeros((3000, 1100))
    binary[train.rows, train.items] = 1
    inverse = np.linalg.inv(binary.T @ binary + 200 * np.eye(1100))
    truth = -inverse / np.diag(inverse)
    np.fill_diagonal(truth, 0)
    np.testing.assert_allclose(Ease().fit(train, 1100).weights, truth, atol=2e-6)


def test_the_two_ease_share_one_inverse():
    fitted = fit_teachers(["ease-recent", "ease"], Sequences.of(TRAIN), ITEMS)
    ease, recent = fitted["ease"], fitted["ease-recent"]
    assert isinstance(recent, EaseRecent) and recent.ease is ease


def test_a_name_that_is_no_teacher_is_refused():
    with pytest.raises(KeyError, match="eaze"):
        fit_teachers(["eaze"], Sequences.of(TRAIN), ITEMS)
