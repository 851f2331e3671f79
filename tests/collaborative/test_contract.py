"""What every teacher promises; a new one inherits these tests by its name in TEACHERS."""

import numpy as np
import pytest

from llmrec.collaborative import TEACHERS, Bpr, LightGcn, SasRec, fit_teachers
from llmrec.contracts import Sequences

ITEMS = 17
# Promises do not depend on how long a teacher trains, so those that train do so briefly here.
BRIEF = {
    "bpr": lambda: Bpr(epochs=3, width=8),
    "lightgcn": lambda: LightGcn(epochs=3, width=8),
    "sasrec": lambda: SasRec(epochs=3, width=16, window=6, batch=32),
}
MAKE = TEACHERS | BRIEF


def histories(seed: int, rows: int = 90) -> Sequences:
    """Random histories over all but the last two items, with empty rows, single events and repeats."""
    rng = np.random.default_rng(seed)
    return Sequences.of(rng.integers(0, ITEMS - 2, rng.integers(0, 9)) for _ in range(rows))


pytestmark = pytest.mark.parametrize("name", TEACHERS)


def test_scores_are_one_finite_float32_for_each_row_and_item(name):
    scores = MAKE[name]().fit(histories(0), ITEMS).score(histories(1, rows=5))
    assert scores.shape == (5, ITEMS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_fit_returns_the_teacher_itself(name):
    teacher = MAKE[name]()
    assert teacher.fit(histories(0), ITEMS) is teacher


def test_two_fits_agree_to_the_bit(name):
    first, second = (MAKE[name]().fit(histories(0), ITEMS).score(histories(1)) for _ in range(2))
    assert np.array_equal(first, second)


def test_the_order_of_users_is_nothing_to_a_teacher(name):
    train, order = histories(0), np.random.default_rng(5).permutation(90)
    shuffled = Sequences.of([train[row] for row in order])
    a, b = (MAKE[name]().fit(t, ITEMS).score(histories(1)) for t in (train, shuffled))
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_batch_scores_as_its_rows_do_alone(name):
    teacher, asked = MAKE[name]().fit(histories(0), ITEMS), histories(1, rows=70)
    alone = np.concatenate([teacher.score(Sequences.of([row])) for row in asked])
    np.testing.assert_allclose(teacher.score(asked), alone, rtol=1e-5, atol=1e-6)


def test_empty_and_unseen_histories_score_finitely(name):
    scores = MAKE[name]().fit(histories(0), ITEMS).score(Sequences.of([[], [ITEMS - 1], [ITEMS - 2, 0]]))
    assert np.isfinite(scores).all()


def test_no_rows_give_no_scores(name):
    assert MAKE[name]().fit(histories(0), ITEMS).score(Sequences.of([])).shape == (0, ITEMS)


def test_training_on_nothing_still_scores(name):
    scores = MAKE[name]().fit(Sequences.of([[], []]), ITEMS).score(histories(1, rows=3))
    assert np.isfinite(scores).all() and scores.shape == (3, ITEMS)


def test_callers_may_write_into_the_scores(name):
    teacher, asked = MAKE[name]().fit(histories(0), ITEMS), histories(1, rows=3)
    scores = teacher.score(asked)
    before = scores.copy()
    scores[:] = -np.inf
    assert np.array_equal(teacher.score(asked), before)


def test_fitting_together_is_fitting_alone(name):
    if name in BRIEF:
        pytest.skip("trains at full length by its name; nothing is shared with others")
    names = [other for other in TEACHERS if other not in BRIEF]
    together = fit_teachers(names, histories(0), ITEMS)
    alone = TEACHERS[name]().fit(histories(0), ITEMS)
    assert list(together) == names
    assert np.array_equal(together[name].score(histories(1)), alone.score(histories(1)))
