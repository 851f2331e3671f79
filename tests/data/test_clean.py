"""Cleaning, ordering and splitting: each rule against a few lines of plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest

from llmrec.data.clean import clean
from llmrec.data.dataset import Dataset, check_order
from llmrec.data.sources import RawData
from llmrec.errors import DataError
from llmrec.recipe import Data

Event = tuple[str, str, int]


def random_events(seed: int = 0, users: int = 30, items: int = 25, events: int = 300, times: int = 40) -> list[Event]:
    draw = np.random.default_rng(seed)
    drawn = zip(*(draw.integers(below, size=events) for below in (users, items, times)), strict=True)
    return sorted({(f"u{user}", f"i{item}", int(time)) for user, item, time in drawn})


def raw(events: list[Event], items: list[str] | None = None) -> RawData:
    users, ids, times = zip(*events, strict=True)
    names = sorted(set(ids)) if items is None else items
    return RawData(
        pa.table({"user_id": users, "item_id": ids, "timestamp": pa.array(times, pa.int64())}),
        pa.table({"item_id": names, "title": [f"title of {name}" for name in names]}),
        "seconds",
    )


def cleaned(events: list[Event], seed: int = 1, **options: object) -> list[tuple[str, str, int, str]]:
    table = clean(raw(events), Data.model_validate(options), seed).interactions
    return list(zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp", "split")), strict=True))


def test_the_order_of_rows_in_the_file_is_nothing() -> None:
    events = random_events()
    shuffled = [events[row] for row in np.random.default_rng(5).permutation(len(events))]
    assert cleaned(events, max_users=20, k_core=3) == cleaned(shuffled, max_users=20, k_core=3)


def test_ties_are_broken_by_the_seed_and_not_by_item_id() -> None:
    """Ten events at one time for each of 400 users: were they sorted by id, place and id would go together."""
    events = [(f"u{user}", f"i{item:02}", 0) for user in range(400) for item in range(10)]
    one, other = cleaned(events, seed=1), cleaned(events, seed=2)
    assert one == cleaned(events, seed=1)
    assert one != other
    numbers = np.array([int(item[1:]) for _, item, _, _ in one]).reshape(400, 10)
    places = np.tile(np.arange(10), (400, 1))
    # 4,000 pairs without any connection correlate by 0 ± 1/√4000 = .016
    assert abs(np.corrcoef(numbers.ravel(), places.ravel())[0, 1]) < 0.06
    # each item comes last for a tenth of users: 40 ± 6
    assert max(Counter(numbers[:, -1].tolist()).values()) < 40 + 5 * 6


def test_leave_one_out_holds_out_the_last_event_and_validates_on_the_one_before() -> None:
    events = random_events(events=150)
    by_user = defaultdict(list)
    for user, _, time, split in cleaned(events):
        by_user[user].append((time, split))
    for user, rows in by_user.items():
        times = [time for time, _ in rows]
        assert times == sorted(time for name, _, time in events if name == user)
        expected = ["train"] * len(rows) if len(rows) < 3 else ["train"] * (len(rows) - 2) + ["valid", "test"]
        assert [split for _, split in rows] == expected


@pytest.mark.parametrize("core", [2, 4, 6])
def test_the_core_is_the_largest_set_in_which_everybody_has_enough_events(core: int) -> None:
    left = random_events(seed=core, users=40, items=40, events=260)
    while True:  # one event too few at a time: another road to the same fixed point
        users, items = Counter(user for user, _, _ in left), Counter(item for _, item, _ in left)
        poor = next((e for e in left if users[e[0]] < core or items[e[1]] < core), None)
        if poor is None:
            break
        left.remove(poor)
    events = random_events(seed=core, users=40, items=40, events=260)
    if not left:
        with pytest.raises(DataError, match="no interactions are left"):
            cleaned(events, k_core=core)
    else:
        assert sorted(row[:3] for row in cleaned(events, k_core=core)) == sorted(left)


def test_repeated_rows_count_once_and_are_counted() -> None:
    events = [("u1", "i1", 1), ("u1", "i2", 2), ("u1", "i3", 3)]
    found = clean(raw(events * 3), Data(), 1)
    assert found.interactions.num_rows == 3
    assert found.dropped["repeated rows"] == 6


def test_a_repeated_event_with_two_ratings_keeps_the_higher_whatever_the_order() -> None:
    for ratings in ([1.0, 5.0], [5.0, 1.0]):
        one = raw([("u1", "i1", 1)] * 2)
        one.interactions = one.interactions.append_column("rating", pa.array(ratings, pa.float32()))
        assert clean(one, Data(), 1).interactions["rating"].to_pylist() == [5.0]


def test_a_user_may_come_back_to_an_item() -> None:
    assert len(cleaned([("u1", "i1", 1), ("u1", "i2", 2), ("u1", "i1", 3)])) == 3


def test_item_rows_that_contradict_one_another_are_named() -> None:
    one = raw([("u1", "i1", 1)])
    one.items = pa.table({"item_id": ["i1", "i1", "i2"], "title": ["a film", "another film", "x"]})
    with pytest.raises(DataError, match=r"'i1' \(2 times\)"):
        clean(one, Data(), 1)


def test_the_same_item_row_twice_is_no_contradiction() -> None:
    one = raw([("u1", "i1", 1)])
    one.items = pa.table({"item_id": ["i1", "i1"], "title": ["a film", "a film"]})
    assert clean(one, Data(), 1).items.to_pylist() == [{"item_id": "i1", "title": "a film"}]


def test_items_of_the_log_that_the_catalogue_lacks_join_it_without_text() -> None:
    found = clean(raw([("u1", "i1", 1), ("u1", "new", 2)], items=["i1", "i2"]), Data(), 1).items.to_pylist()
    titles = {row["item_id"]: row["title"] for row in found}
    assert titles == {"i1": "title of i1", "i2": "title of i2", "new": None}


def test_a_sample_of_users_is_seeded_and_keeps_whole_histories() -> None:
    events = random_events()
    one, other = ({row[0] for row in cleaned(events, seed=seed, max_users=7)} for seed in (1, 2))
    assert len(one) == 7
    assert one != other
    kept = sorted(row[:3] for row in cleaned(events, seed=1, max_users=7))
    assert kept == [event for event in events if event[0] in one]


def test_a_held_out_event_before_a_training_event_is_a_leak() -> None:
    items = pa.table({"item_id": ["a", "b"]})
    backwards = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [2, 1], "split": ["train", "train"]}
    held_out_first = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1, 2], "split": ["test", "train"]}
    for columns in (backwards, held_out_first):
        with pytest.raises(DataError, match="would leak"):
            check_order(Dataset(pa.table(columns), items))
