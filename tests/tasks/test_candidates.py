"""Items on offer: distinct, wrong but for one, drawn from what training knows, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_world import source

from llmrec.recipe import Tasks
from llmrec.tasks.instances import NegativeSampler, add_candidates, add_verdicts, by_window


@given(st.lists(st.integers(0, 29), min_size=2, max_size=30), st.integers(2, 40), st.booleans(), st.integers(0, 9))
def test_offers_hold_the_chosen_item_once_and_else_only_unseen_ones(
    history: list[int], places: int, popular: bool, seed: int
) -> None:
    one = source([history])
    found = by_window(one, 0, 1, Tasks(positions="all"), 5)
    given_out = add_candidates(found, places, NegativeSampler(one, popular), np.random.default_rng(seed))
    free = 30 - len(set(history))
    for case in range(len(found)):
        shown = [item for item in given_out.candidates[case].tolist() if item >= 0]
        assert len(shown) == len(set(shown)) == min(places - 1, free) + 1
        assert shown[int(given_out.labels[case])] == found.items[case]
        assert set(shown) & set(history) == {int(found.items[case])}


def test_the_right_one_stands_anywhere_alike() -> None:
    one = source([list(range(20))])
    found = by_window(one, 0, 1, Tasks(positions="all"), 5).take(np.zeros(3000, np.int64))
    places = add_candidates(found, 4, NegativeSampler(one, False), np.random.default_rng(0)).labels
    assert np.abs(np.bincount(places.astype(int)) / 3000 - 0.25).max() < 0.05


def test_popular_items_are_drawn_as_often_as_training_has_them() -> None:
    one = source([[0, 1], *[[5, 6]] * 8, [7, 8]])
    rng, sampler = np.random.default_rng(0), NegativeSampler(one, True)
    found = np.bincount([int(sampler.sample(0, 1, rng)[0]) for _ in range(4000)], minlength=30)
    counts = np.bincount(one.train.items, minlength=30) + 1.0
    counts[[0, 1]] = 0
    assert np.abs(found / 4000 - counts / counts.sum()).max() < 0.02


def test_verdicts_are_half_yes_and_no_is_about_an_unseen_item() -> None:
    one = source([list(range(12))])
    found = by_window(one, 0, 1, Tasks(positions="all"), 5).take(np.arange(2200) % 11)
    judged = add_verdicts(found, NegativeSampler(one, False), np.random.default_rng(0))
    assert judged.labels.mean() == pytest.approx(0.5, abs=0.05)
    assert (judged.items[judged.labels == 1] == found.items[judged.labels == 1]).all()
    assert (judged.items[judged.labels == 0] >= 12).all()


def test_who_had_everything_gets_no_wrong_item() -> None:
    one = source([[0, 1, 2]], ["a", "b", "c"])
    found = by_window(one, 0, 1, Tasks(positions="all"), 5)
    assert (add_verdicts(found, NegativeSampler(one, False), np.random.default_rng(0)).labels == 1).all()
    alone = add_candidates(found, 9, NegativeSampler(one, False), np.random.default_rng(0))
    assert [row[row >= 0].tolist() for row in alone.candidates] == [[1], [2]]
