"""Item numbers by id, against a dictionary; the hash of ids, whatever the table that holds them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.indexing import ids as module
from llmrec.indexing.ids import IdIndex, flat, hash_ids

TEXTS = st.lists(st.text(max_size=12), min_size=1, max_size=60)


def index(texts: list[str]) -> IdIndex:
    return IdIndex.build(pa.array(texts, pa.large_string()))


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_numbers_are_those_of_a_dictionary(held: list[str], wanted: list[str]) -> None:
    held = list(dict.fromkeys(held))
    known, found = {text: number for number, text in enumerate(held)}, index(held)
    expected = [known.get(text, -1) for text in held + wanted]
    assert found.numbers(held + wanted).tolist() == expected
    assert found.numbers(pa.chunked_array([held, wanted], pa.string())).tolist() == expected
    assert [found.number(text) for text in held + wanted] == expected


@settings(deadline=None)
@given(TEXTS)
def test_a_repeated_id_is_noticed(texts: list[str]) -> None:
    assert index(texts).has_duplicates == (len(set(texts)) < len(texts))


@settings(deadline=None)
@given(TEXTS)
def test_ids_whose_hashes_collide_are_told_apart(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FACTOR", 0)  # the hash of an id is that of its first character
        found, known = index(list(dict.fromkeys(texts))), {text: n for n, text in enumerate(dict.fromkeys(texts))}
        assert found.numbers([*texts, "?!"]).tolist() == [known.get(text, -1) for text in [*texts, "?!"]]
        assert [found.number(text) for text in texts] == [known[text] for text in texts]
        assert index(texts).has_duplicates == (len(set(texts)) < len(texts))


def test_ids_past_a_block_and_what_is_no_text_of_unicode() -> None:
    draw = np.random.default_rng(0)
    texts = ["", "x" * 10_000, *(f"item {number}" for number in draw.permutation(150_000))]
    found = index(texts)
    assert (found.numbers(texts) == np.arange(len(texts))).all() and not found.has_duplicates
    assert found.numbers(["item \ud800"]).tolist() == [found.number("item \ud800")] == [-1]
    assert found.numbers([]).tolist() == []


def test_the_hash_of_ids_knows_where_each_ends_and_not_how_they_are_stored() -> None:
    texts = pa.array(["a", "bc", "", "d"])
    stored = [
        texts,
        pa.chunked_array([texts[:1], texts[1:]]),
        pa.array(["z", "a", "bc", "", "d"])[1:],
        texts.dictionary_encode(),
        texts.cast(pa.large_string()),
    ]
    assert len({hash_ids(flat(one)) for one in stored}) == 1
    others = [["ab", "c", "", "d"], ["a", "bc", "d", ""], ["a", "bc", "d"], []]
    assert len({hash_ids(flat(pa.array(one, pa.string()))) for one in others} | {hash_ids(flat(texts))}) == 5
