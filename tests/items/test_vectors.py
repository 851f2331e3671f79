"""Vectors of texts: unit length, one a text, near where the words are near."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec import resources
from llmrec.errors import DataError
from llmrec.items import item_vectors as module
from llmrec.items.item_vectors import encode

TEXTS = ["a western film", "a western movie", "pasta with tomatoes", "!?", "é" * 400, "x"]


@pytest.fixture(params=["hashing", "minilm-l6"])
def encoder(request: pytest.FixtureRequest) -> str:
    if request.param == "minilm-l6" and not resources.is_downloaded("minilm-l6"):
        pytest.skip("all-MiniLM-L6-v2 is not in the cache; `llmrec setup` fetches it")
    return request.param


def test_each_text_has_a_vector_of_length_one(encoder: str) -> None:
    vectors = encode(TEXTS, encoder)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_a_text_has_its_vector_whatever_stands_beside_it(encoder: str) -> None:
    together, alone = encode(TEXTS, encoder), np.concatenate([encode([text], encoder) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_texts_that_share_words_are_nearer_than_those_that_do_not(encoder: str) -> None:
    western, same, pasta, *_ = encode(TEXTS, encoder)
    assert western @ same > western @ pasta + 0.2


def test_progress_ends_at_the_whole(encoder: str) -> None:
    told: list[float] = []
    encode(TEXTS * 20, encoder, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("broken", [0.0, np.nan, np.inf])
def test_a_vector_that_says_nothing_is_refused_with_its_text(broken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[1] = broken
    monkeypatch.setitem(module.ENCODERS, "broken", lambda texts, progress: vectors.copy())
    with pytest.raises(DataError, match=r"1 item\(s\): row 1: 'two'"):
        encode(["one", "two", "three"], "broken")
