"""Catalogues carried over: old codes stay, new items get free ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmrec.errors import CodeError
from llmrec.indexing import build, new_items
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Indexing

SETTINGS = Indexing(levels=2, width=4, reserved_tokens=6)


def unit_vectors(items: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(items, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table(names: list[str]) -> pa.Table:
    return pa.table({"item_id": names, "title": [name.upper() for name in names]})


def made(folder: Path, names: list[str], vectors: np.ndarray) -> Catalogue:
    folder.mkdir()
    build.make(SETTINGS, table(names), vectors, 0, folder)
    return Catalogue.load(folder)


def test_old_items_keep_their_codes_whatever_their_order_and_new_ones_get_free_codes(tmp_path: Path) -> None:
    vectors = unit_vectors(60)
    names = [f"i{number}" for number in range(60)]
    old = made(tmp_path / "old", names[:50], vectors[:50])
    order = np.random.default_rng(1).permutation(60)
    (tmp_path / "new").mkdir()
    facts = new_items.extend(tmp_path / "old", table([names[i] for i in order]), vectors[order], 0, tmp_path / "new")
    new = Catalogue.load(tmp_path / "new")
    assert (facts["codes kept"], facts["new codes"]) == (50, 10)
    assert new.tokens == old.tokens
    assert len(set(new.code_texts)) == 60
    for name in names[:50]:
        assert new.code_texts[new.item_number[name]] == old.code_texts[old.item_number[name]]


def test_a_code_that_an_absent_item_had_is_not_given_to_another(tmp_path: Path) -> None:
    vectors = unit_vectors(30)
    names = [f"i{number}" for number in range(30)]
    old = made(tmp_path / "old", names, vectors)
    (tmp_path / "new").mkdir()
    # The first item is gone; a new one with its very vector arrives.
    new_items.extend(tmp_path / "old", table([*names[1:], "late"]), vectors[[*range(1, 30), 0]], 0, tmp_path / "new")
    new = Catalogue.load(tmp_path / "new")
    assert new.code_texts[new.item_number["late"]] not in old.code_texts


def test_new_items_past_the_last_spare_are_refused_with_the_remedy(tmp_path: Path) -> None:
    vectors = unit_vectors(30)
    names = [f"i{number}" for number in range(30)]
    made(tmp_path / "old", names, vectors)
    (tmp_path / "new").mkdir()
    twins = [f"twin{number}" for number in range(20)]
    with pytest.raises(CodeError, match=r"no reserved token.*indexing\.reserved_tokens"):
        new_items.extend(
            tmp_path / "old", table(names + twins), np.vstack([vectors, vectors[[0] * 20]]), 0, tmp_path / "new"
        )


def test_vectors_of_another_encoder_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "old", [f"i{number}" for number in range(30)], unit_vectors(30))
    (tmp_path / "new").mkdir()
    with pytest.raises(CodeError, match="another encoder"):
        new_items.extend(tmp_path / "old", table(["a"]), np.ones((1, 5), np.float32), 0, tmp_path / "new")
    with pytest.raises(CodeError, match="vectors have 5 numbers but the codebooks 8"):  # though no item is new
        new_items.extend(tmp_path / "old", table(["i3"]), np.ones((1, 5), np.float32), 0, tmp_path / "new")
