"""TrainPositions of training histories and the pairs made of them, against a walk over every history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from llmrec.align.context import TrainPositions
from llmrec.align.pairs import PreferencePairs, build_pairs, popular_items, random_items, teacher_items
from llmrec.collaborative import Ease
from llmrec.contracts import Items, Sequences
from llmrec.data.dataset import Dataset
from llmrec.errors import DataError

ITEMS = 60


def histories(repeats: bool, seed: int = 0) -> Sequences:
    draw = np.random.default_rng(seed)
    return Sequences.of([draw.choice(ITEMS, length, replace=repeats) for length in draw.integers(0, 30, 40)])


@pytest.mark.parametrize("repeats", [False, True])
def test_moments_are_the_newest_events_that_something_came_before(repeats: bool) -> None:
    train = histories(repeats=True)
    found = TrainPositions.newest(train, 4, repeats, ITEMS)
    truth = [
        (user, place)
        for user, row in enumerate(train)
        for place in range(max(1, len(row) - 4), len(row))
        if repeats or row[place] not in row[:place]
    ]
    assert list(zip(found.users.tolist(), found.index.tolist(), strict=True)) == truth
    for number, (user, place) in enumerate(truth):
        assert found.targets[number] == train[user][place]
        assert found.history(number).tolist() == train[user][:place].tolist()


def test_no_history_of_two_events_is_told() -> None:
    with pytest.raises(DataError, match="no training history has two events"):
        TrainPositions.newest(Sequences.of([[1], [2], []]), 5, False, ITEMS)


@pytest.mark.parametrize("repeats", [False, True])
def test_rejected_items_are_none_of_what_the_training_history_takes(repeats: bool) -> None:
    train = histories(repeats=repeats)
    positions = TrainPositions.newest(train, 6, repeats, ITEMS)
    draw = np.random.default_rng(0)
    teacher = Ease().fit(train, Items.numbered(ITEMS))
    sources = {
        "random": random_items(positions, draw),
        "popular": popular_items(positions, draw),
        "teacher": teacher_items(positions, teacher),
    }
    pairs = build_pairs(positions, {"popular": 3, "teacher": 4}, sources)
    assert pairs.negatives.shape == (len(positions), 7) and pairs.kinds.shape == pairs.negatives.shape
    assert (pairs.kinds[:, 3:] == "teacher").all()
    for number, row in enumerate(pairs.negatives):
        user, place = positions.users[number], positions.index[number]
        bad = train[user][place:] if repeats else train[user]
        assert len(set(row.tolist())) == 7 and not set(row.tolist()) & set(bad.tolist())
    assert pairs.dropped["taken later by the same user"] > 0
    assert (pairs.dropped["had before by the same user"] == 0) == repeats


def test_teachers_items_are_its_best_that_may_be_rejected() -> None:
    train = histories(repeats=False)
    positions = TrainPositions.newest(train, 6, False, ITEMS)
    teacher = Ease().fit(train, Items.numbered(ITEMS))
    pairs = build_pairs(positions, {"teacher": 4}, {"teacher": teacher_items(positions, teacher)})
    for number in range(0, len(positions), 7):
        scores = teacher.score(positions.histories([number]))[0]
        order = [item for item in np.argsort(-scores, kind="stable") if item not in train[positions.users[number]]]
        assert pairs.negatives[number].tolist() == order[:4]


def test_a_pair_that_rejects_what_it_chooses_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 2 pairs have their target as a negative.*pair 1, item number 5"):
        PreferencePairs(np.array([4, 5]), np.array([[1, 2], [3, 5]]), np.array([["random"] * 2] * 2), {})


def test_a_catalogue_too_small_for_so_many_is_told() -> None:
    train = Sequences.of([np.arange(8), np.arange(8)[::-1]])
    positions = TrainPositions.newest(train, 3, False, 10)
    with pytest.raises(DataError, match=r"fewer than 5 of the catalogue's 10 items as negatives.*train\.N\.negatives"):
        build_pairs(positions, {"random": 5}, {"random": random_items(positions, np.random.default_rng(0))})


def test_held_out_events_change_no_pair(tiny_run: Path) -> None:
    """What users did after their training part is replaced, and every pair stays."""
    dataset = Dataset.load(tiny_run / "data")

    def made(given: Dataset) -> list[Any]:
        positions = TrainPositions.newest(given.before("valid"), 5, True, given.n_items)
        draw = np.random.default_rng(0)
        sources = {"random": random_items(positions, draw), "popular": popular_items(positions, draw)}
        return build_pairs(positions, {"random": 3, "popular": 3}, sources).negatives.tolist()

    ids = np.array(dataset.interactions["item_id"].to_pylist())
    held = pc.not_equal(dataset.interactions["split"], "train").to_numpy()
    ids[held] = np.random.default_rng(1).choice(dataset.item_ids, held.sum())
    column = dataset.interactions.schema.get_field_index("item_id")
    changed = Dataset(dataset.interactions.set_column(column, "item_id", pa.array(ids)), dataset.items)
    assert changed.interactions["item_id"] != dataset.interactions["item_id"]
    assert made(changed) == made(dataset)
