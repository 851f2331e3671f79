"""Rendering by columns gives what filling one template after another by hand gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_world import source

from llmrec.errors import PromptError
from llmrec.recipe import Tasks
from llmrec.tasks.instances import by_event, by_window
from llmrec.tasks.render import BYTES_PER_TOKEN, has_value, render
from llmrec.tasks.templates import fill, sanitize

TITLES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1, max_size=12)


@given(st.lists(TITLES, min_size=2, max_size=6), st.data())
def test_columns_and_slots_are_those_of_one_at_a_time(titles: list[str], data) -> None:
    items = st.integers(0, len(titles) - 1)
    one = source(data.draw(st.lists(st.lists(items, max_size=6), min_size=1, max_size=4)), titles)
    template = "{{ü}} {user}: {history}, {title}; {titles}! 🎬"
    found = by_window(one, 0, len(one.train), Tasks(positions="all"), 3)
    text = render(template, found, one, Tasks())
    codes, names, ids = (column.to_pylist() for column in (one.codes, one.titles, one.item_ids))
    for case in range(len(found)):
        past = one.train.items[found.begins[case] : found.ends[case]].tolist()
        listed = [
            piece
            for at, i in enumerate(past)
            for piece in ([("; ", "", "")] if at else []) + [(names[i], "title", ids[i])]
        ]
        pieces = {
            "user": [(one.users[int(found.users[case])].as_py(), "user", "")],
            "history": [(codes[item], "history", ids[item]) for item in past],
            "title": [(names[found.items[case]], "text", ids[found.items[case]])],
            "titles": listed,
        }
        whole, slots = fill(template, pieces)
        assert text.texts[case].as_py() == whole
        expected = [(s.start, s.stop, s.kind, s.item_id) for s in slots if s.kind]
        assert [tuple(slot.values()) for slot in text.slots[case].as_py()] == expected


@given(st.lists(TITLES, min_size=1, max_size=9), st.integers(1, 30))
def test_titles_are_cut_from_the_oldest_at_an_item_boundary(titles: list[str], tokens: int) -> None:
    one = source([[*range(len(titles)), 0]], titles)
    found = by_window(one, 0, 1, Tasks(), 20)
    names = [sanitize(title) for title in titles]
    whole = render("{titles}", found, one, Tasks(history_tokens=tokens)).texts[0].as_py()
    kept = len(render("{titles}", found, one, Tasks(history_tokens=tokens)).slots[0])
    assert whole == "; ".join(one.titles.to_pylist()[-kept:]) and kept >= 1
    assert kept == 1 or len(whole.encode()) <= tokens * BYTES_PER_TOKEN
    more = "; ".join(names[-kept - 1 :]).encode() + b"; "
    assert kept == len(names) or len(more) > tokens * BYTES_PER_TOKEN


def test_events_bring_their_stars_and_words() -> None:
    one = source([[0, 1, 2]], rating=[4.0, 3.5, None], review=["good\nbook", None, " "])
    found = by_event(one, 0, 1, Tasks(), 5)
    assert has_value("rating", found, one).tolist() == [True, True, False]
    assert has_value("review", found, one).tolist() == [True, False, False]
    assert render("{rating}", found.take(np.array([0, 1])), one, Tasks()).texts.to_pylist() == ["4", "3.5"]
    assert render("{review}", found.take(np.array([0])), one, Tasks()).texts.to_pylist() == ["good book"]


def test_a_task_without_candidates_cannot_ask_for_a_letter() -> None:
    one = source([[0, 1, 2]])
    with pytest.raises(PromptError, match=r"the slot {letter} belongs to tasks with candidates"):
        render("{letter}", by_window(one, 0, 1, Tasks(), 5), one, Tasks())
