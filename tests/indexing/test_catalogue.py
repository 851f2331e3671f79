"""The catalogue folder: comes back as it was, is known by its hash, and is refused once it was changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.errors import CodeError
from llmrec.indexing.catalogue import Catalogue

ITEMS = pa.table({"item_id": ["10", "9", "x y"], "title": ["Ten", "<a_0>", None]})
CODES = np.array([[0, 1], [2, 0], [0, 0]], np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Catalogue.of(ITEMS, CODES, [3, 2]).save(tmp_path, {"verdict": []})
    return tmp_path


def test_tokens_are_named_level_by_level_spares_included() -> None:
    catalogue = Catalogue.of(ITEMS, CODES, [3, 2])
    assert catalogue.tokens == ["<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>"]
    assert catalogue.code_texts == ["<a_0><b_1>", "<a_2><b_0>", "<a_0><b_0>"]
    assert catalogue.titles == ["Ten", "<a_0>", "x y"]
    assert catalogue.item_number == {"10": 0, "9": 1, "x y": 2}


def test_a_saved_catalogue_comes_back(folder: Path) -> None:
    one, back = Catalogue.of(ITEMS, CODES, [3, 2]), Catalogue.load(folder)
    assert back.hash == one.hash
    assert back.items.equals(one.items)
    assert back.codes.tolist() == one.codes.tolist()
    assert back.code_texts == one.code_texts
    assert back.trie.hash == one.trie.hash


def test_the_hash_knows_items_codes_and_spares() -> None:
    renamed = ITEMS.set_column(0, "item_id", pa.array(["10", "9", "z"]))
    moved = np.array([[0, 1], [2, 0], [1, 0]], np.int32)
    every = [
        Catalogue.of(ITEMS, CODES, [3, 2]),
        Catalogue.of(renamed, CODES, [3, 2]),
        Catalogue.of(ITEMS, moved, [3, 2]),
        Catalogue.of(ITEMS, CODES, [3, 4]),
    ]
    assert len({catalogue.hash for catalogue in every}) == 4


def change_codes(folder: Path) -> None:
    table = pq.read_table(folder / "codes.parquet").to_pydict()
    table["code"][0], table["code"][1] = table["code"][1], table["code"][0]
    pq.write_table(pa.table(table), folder / "codes.parquet")


def change_items(folder: Path) -> None:
    pq.write_table(ITEMS.take([1, 0, 2]), folder / "items.parquet")


def change_tokens(folder: Path) -> None:
    about = json.loads((folder / "catalogue.json").read_text())
    about["tokens"][0] = "<z_9>"
    (folder / "catalogue.json").write_text(json.dumps(about))


def change_trie(folder: Path) -> None:
    data = bytearray((folder / "trie.symbol.npy").read_bytes())
    data[-1] ^= 1
    (folder / "trie.symbol.npy").write_bytes(data)


def other_trie(folder: Path) -> None:
    """A whole trie, but of other codes."""
    Catalogue.of(ITEMS, CODES[[1, 0, 2]], [3, 2]).trie.save(folder)


def lose_codes(folder: Path) -> None:
    (folder / "codes.parquet").unlink()


@pytest.mark.parametrize("change", [change_codes, change_items, change_tokens, change_trie, other_trie, lose_codes])
def test_a_catalogue_that_was_changed_is_refused(change, folder: Path) -> None:
    change(folder)
    with pytest.raises(CodeError):
        Catalogue.load(folder)


def test_a_later_format_is_refused_by_number(folder: Path) -> None:
    about = json.loads((folder / "catalogue.json").read_text())
    (folder / "catalogue.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(CodeError, match="catalogue format 99, this llmrec reads"):
        Catalogue.load(folder)


def test_another_folder_is_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CodeError, match=r"it has no catalogue\.json"):
        Catalogue.load(tmp_path)


@pytest.mark.parametrize("codes", [[[3, 0], [0, 0], [1, 0]], [[0, 2], [0, 0], [1, 0]], [[-1, 0], [0, 0], [1, 0]]])
def test_codes_outside_their_level_are_refused(codes: list[list[int]]) -> None:
    with pytest.raises(CodeError, match="outside its level's width"):
        Catalogue.of(ITEMS, np.array(codes, np.int32), [3, 2])


def test_repeated_codes_are_refused() -> None:
    with pytest.raises(CodeError, match="repeat another item's code"):
        Catalogue.of(ITEMS, np.zeros((3, 2), np.int32), [3, 2])
