"""Each model in closed form against its definition, written as loops."""

import numpy as np
import pytest

from llmrec.collaborative import Ease, fit, fit_one, linear
from llmrec.contracts import Items, Sequences
from llmrec.recipe.collaborative import (
    EaseRecentSpec,
    EaseSpec,
    ItemKnnSpec,
    MarkovEaseSpec,
    MarkovSpec,
    ModelSpec,
    PopularitySpec,
)

ITEMS = 12


def random_rows(seed: int, rows: int, longest: int = 30) -> list[list[int]]:
    """Histories of 0 to `longest` events, with repeats."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, ITEMS, rng.integers(0, longest)).tolist() for _ in range(rows)]


TRAIN = random_rows(0, 150, longest=8)
ASKED = [*random_rows(1, 80), [], [3], [4, 4]]
ASKED_ROWS, CATALOGUE = Sequences.of(ASKED), Items.numbered(ITEMS)
BINARY = np.array([[float(item in row) for item in range(ITEMS)] for row in TRAIN])


def scores_of(spec: ModelSpec) -> np.ndarray:
    """(rows of ASKED, ITEMS) after fitting on TRAIN."""
    return fit_one(spec, Sequences.of(TRAIN), CATALOGUE).score(ASKED_ROWS)


def ease_weights(l2: float) -> np.ndarray:
    """(ITEMS, ITEMS) by ridge regression of each item on all others, which is what EASE's closed form solves."""
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = [i for i in range(ITEMS) if i != item]
        x = BINARY[:, others]
        weights[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(ITEMS - 1), x.T @ BINARY[:, item])
    return weights


def test_popularity_counts_users_not_events():
    scores = scores_of(PopularitySpec())
    assert np.array_equal(scores, np.tile(BINARY.sum(0), (len(ASKED), 1)))


@pytest.mark.parametrize("l2", [1.0, 200.0])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(l2):
    scores = scores_of(EaseSpec(l2=l2))
    vectors = np.array([[float(item in row) for item in range(ITEMS)] for row in ASKED])
    np.testing.assert_allclose(scores, vectors @ ease_weights(l2), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("decay", "window"), [(0.85, 20), (0.5, 3)])
def test_ease_on_recent_items_decays_them_and_keeps_the_largest_of_repeats(decay, window):
    scores = scores_of(EaseRecentSpec(decay=decay, window=window))
    vectors = np.zeros((len(ASKED), ITEMS))
    for row, history in enumerate(ASKED):
        for back, item in enumerate(reversed(history[-window:])):
            vectors[row, item] = max(vectors[row, item], decay**back)
    np.testing.assert_allclose(scores, vectors @ ease_weights(200.0), rtol=1e-3, atol=1e-5)


def test_markov_and_ease_add_their_scores_as_shares_of_their_best():
    scores = scores_of(MarkovEaseSpec(max_gap=2, fade=0.3, l2=50, decay=0.7, window=5))
    truth = np.zeros_like(scores)
    for part in (MarkovSpec(max_gap=2, fade=0.3), EaseRecentSpec(l2=50, decay=0.7, window=5)):
        for row, values in enumerate(scores_of(part)):
            truth[row] += [max(value, 0) / values.max() if values.max() > 0 else 0 for value in values]
    np.testing.assert_allclose(scores, truth, rtol=1e-5, atol=1e-6)
    assert scores.max() == pytest.approx(2) and scores.min() == 0


@pytest.mark.parametrize(("max_gap", "fade"), [(3, 0.5), (1, 0.0), (5, 1.0)])
def test_markov_adds_inverse_distances_and_divides_popularity_down(max_gap, fade):
    counts = np.zeros((ITEMS, ITEMS))
    for row in TRAIN:
        for i, before in enumerate(row):
            for j in range(i + 1, min(i + max_gap + 1, len(row))):
                counts[before, row[j]] += 1 / (j - i)
    users = BINARY.sum(0)
    table = counts / np.sqrt(np.outer(users + 1, users + 1))
    truth = np.zeros((len(ASKED), ITEMS))
    for row, history in enumerate(ASKED):
        for back, weight in ((1, 1.0), (2, fade)):
            if len(history) >= back:
                truth[row] += weight * table[history[-back]]
    scores = scores_of(MarkovSpec(max_gap=max_gap, fade=fade))
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
    np.testing.assert_allclose(Ease().fit(train, Items.numbered(1100)).weights, truth, atol=2e-6)


def test_models_of_one_ridge_share_one_matrix():
    specs = [EaseRecentSpec(), EaseSpec(), MarkovEaseSpec(), EaseRecentSpec(l2=50)]
    fitted = fit(specs, Sequences.of(TRAIN), CATALOGUE)
    assert list(fitted) == ["ease-recent", "ease", "markov-ease", "ease-recent (l2 50)"]
    recent, ease, both, other = fitted.values()
    assert recent.parts["ease"] is both.parts["recent"].parts["ease"] is ease
    assert other.parts["ease"] is not ease
    for spec in specs:
        assert np.array_equal(fitted[spec.name].score(ASKED_ROWS), scores_of(spec))


def test_long_histories_are_multiplied_in_strips_to_the_same_scores(monkeypatch):
    whole = {spec.kind: scores_of(spec) for spec in (EaseSpec(), ItemKnnSpec(neighbours=3))}
    monkeypatch.setattr(linear, "STRIP", 5)
    for spec in (EaseSpec(), ItemKnnSpec(neighbours=3)):
        np.testing.assert_allclose(scores_of(spec), whole[spec.kind], rtol=1e-5, atol=1e-7)
