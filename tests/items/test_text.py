"""The text of an item: one line of ordinary characters, whatever somebody's file holds."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.errors import DataError
from llmrec.items.item_text import item_texts, item_titles, plain_text

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Heat", " ", None],
        "year": [1995, None, None],
        "genres": [["crime", "drama"], ["comedy"], []],
    }
)


def test_the_first_field_is_plain_and_each_further_one_stands_behind_its_name() -> None:
    assert item_texts(ITEMS, ["title", "year", "genres"], "item-id") == [
        "Heat; year: 1995; genres: crime, drama",
        "genres: comedy",
        "c",
    ]


def test_items_without_text_are_refused_by_name_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"2 item\(s\) have no text in title, year: b, c\n.*items.missing_text=item-id"):
        item_texts(ITEMS, ["title", "year"])


def test_a_column_that_is_not_there_is_named_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"brand, but items have: item_id, title, year, genres"):
        item_texts(ITEMS, ["title", "brand"])


def test_an_item_without_title_is_shown_by_its_id() -> None:
    assert item_titles(ITEMS) == ["Heat", "b", "c"]
    assert item_titles(ITEMS.drop(["title"])) == ["a", "b", "c"]


@given(st.text(st.characters(exclude_categories=[]), max_size=700))
def test_any_value_becomes_one_line_of_at_most_512_characters(text: str) -> None:
    line = plain_text(text)
    assert len(line) <= 512
    assert len(line.splitlines()) <= 1
    assert line == line.strip()
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
    assert plain_text(line) == line
    line.encode()  # nothing that UTF-8 cannot say
