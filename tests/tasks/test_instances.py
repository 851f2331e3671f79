"""Cases: vectorised cuts of histories are what the plain loops say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from task_world import source

from llmrec.recipe import Tasks
from llmrec.tasks import instances as task_instances
from llmrec.tasks.instances import by_window, concat_ranges, repeat_by_weight, window_slices

LENGTHS = st.lists(st.integers(0, 40), max_size=6)


def windows(events: int, size: int, times: int) -> Iterator[tuple[int, int]]:
    """Start and stop of every window of one history, as a loop."""
    for turn in range(times):
        stop = events - turn * (size + 1) // times
        while stop >= 2:
            yield max(0, stop - size - 1), stop
            stop -= size + 1


@given(LENGTHS, st.integers(1, 12), st.integers(1, 4))
def test_windows_are_those_of_the_loop(lengths: list[int], size: int, times: int) -> None:
    rows, starts, stops = window_slices(np.array(lengths, np.int64), size, times)
    expected = [(row, *cut) for row, events in enumerate(lengths) for cut in windows(events, size, times)]
    assert list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)) == expected


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 4))
def test_windows_cover_each_event_as_often_as_said(events: int, size: int, times: int) -> None:
    _, starts, stops = window_slices(np.array([events]), size, times)
    assert all(2 <= stop - start <= size + 1 for start, stop in zip(starts, stops, strict=True))
    seen = Counter(event for start, stop in zip(starts, stops, strict=True) for event in range(start, stop))
    # each turn begins below one window from the end, and leaves out at most a single first event
    for event in range(1, max(1, events - (times - 1) * (size + 1) // times)):
        assert seen[event] == times
    assert all(seen[event] <= times for event in range(events))
    if events >= 2:
        assert seen[events - 1] >= 1


def test_each_turn_cuts_elsewhere() -> None:
    ends = window_slices(np.array([100]), 9, 2)[2].tolist()
    assert set(ends[:10]).isdisjoint(ends[10:])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 4))
def test_positions_all_ask_for_every_event_with_what_came_before_it(lengths: list[int], size: int) -> None:
    histories = [list(range(length)) for length in lengths]
    one = source(histories)
    found = by_window(one, 0, len(histories), Tasks(positions="all"), size)
    got = [
        (int(user), one.train.items[begin:end].tolist(), int(item))
        for user, begin, end, item in zip(found.users, found.begins, found.ends, found.items, strict=True)
    ]
    assert got == [
        (user, history[max(0, at - size) : at], history[at])
        for user, history in enumerate(histories)
        for at in range(1, len(history))
    ]


@given(LENGTHS)
def test_blocks_hold_every_row_once_and_cut_none(lengths: list[int]) -> None:
    found = task_instances.split_blocks(np.array(lengths, np.int64))
    assert [row for first, last in found for row in range(first, last)] == list(range(len(lengths)))


def test_blocks_are_about_as_large_as_they_should_be(monkeypatch) -> None:
    monkeypatch.setattr(task_instances, "BLOCK", 100)
    lengths = np.full(1000, 7)
    assert {last - first for first, last in task_instances.split_blocks(lengths)} <= {14, 15, 13, 1000 % 14}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8))
def test_ragged_ranges_are_ranges(pairs: list[tuple[int, int]]) -> None:
    begins = np.array([begin for begin, _ in pairs], np.int64)
    offsets, flat = concat_ranges(begins, begins + np.array([size for _, size in pairs], np.int64))
    assert flat.tolist() == [number for begin, size in pairs for number in range(begin, begin + size)]
    assert offsets.tolist() == [0, *np.cumsum([size for _, size in pairs]).tolist()]


def test_copies_are_the_whole_part_and_the_fraction_as_a_chance() -> None:
    for weight, low, high in ((0.0, 0, 0), (1.0, 90, 90), (2.0, 180, 180), (0.5, 25, 65), (1.5, 115, 155)):
        found = repeat_by_weight(90, weight, np.random.default_rng(1))
        assert low <= len(found) <= high
        assert set(Counter(found.tolist()).values()) <= {int(weight), int(weight) + 1}
