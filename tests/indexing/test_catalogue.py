"""The catalogue folder: comes back as it was, is known by its hash, and is refused once it was changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from llmrec.errors import CodeError
from llmrec.files import hash_folder
from llmrec.indexing.catalogue import Catalogue, ItemCatalogue, load_catalogue

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
    assert all((getattr(back.trie, name) == getattr(one.trie, name)).all() for name in ("order", "start", "symbol"))


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
    np.save(folder / "codes.npy", CODES[[1, 0, 2]])


def change_items(folder: Path) -> None:
    pq.write_table(ITEMS.take([1, 0, 2]), folder / "items.parquet")


def change_tokens(folder: Path) -> None:
    about = json.loads((folder / "catalogue.json").read_text())
    about["tokens"][0] = "<z_9>"
    (folder / "catalogue.json").write_text(json.dumps(about))


def lose_codes(folder: Path) -> None:
    (folder / "codes.npy").unlink()


@pytest.mark.parametrize("change", [change_codes, change_items, change_tokens, lose_codes])
def test_a_catalogue_that_was_changed_is_refused(change, folder: Path) -> None:
    change(folder)
    with pytest.raises(CodeError):
        Catalogue.load(folder)


@pytest.mark.parametrize("other", [1, 99])
def test_another_format_is_refused_by_number_and_left_as_it_is(other: int, folder: Path) -> None:
    about = json.loads((folder / "catalogue.json").read_text())
    (folder / "catalogue.json").write_text(json.dumps(about | {"format": other, "trie": "of before"}))
    before = hash_folder(folder)
    with pytest.raises(CodeError, match=f"catalogue format {other}, this llmrec reads 3. Nothing in it was changed"):
        Catalogue.load(folder)
    assert hash_folder(folder) == before


def test_a_loaded_catalogue_holds_no_python_object_per_item(tmp_path: Path) -> None:
    number = np.arange(50_000, dtype=np.int32)
    items = pa.table({"item_id": pc.binary_join_element_wise("item", pa.array(number).cast(pa.string()), "-")})
    codes = np.stack([number % 256, number // 256], axis=1)
    Catalogue.of(items, codes, [256, 256]).save(tmp_path)
    before = sys.getallocatedblocks()
    catalogue = Catalogue.load(tmp_path)
    assert catalogue.number("item-777") == 777 and catalogue.numbers(["item-49999", "item"]).tolist() == [49999, -1]
    assert catalogue.titles_of([3]) == catalogue.ids_of([3]) == ["item-3"]
    assert catalogue.codes_as_text([300]).to_pylist() == ["<a_44><b_1>"]
    assert sys.getallocatedblocks() - before < 10_000


def test_items_without_codes_are_a_catalogue_of_items_alone(tmp_path: Path) -> None:
    ItemCatalogue(ITEMS).save(tmp_path)
    back = load_catalogue(tmp_path)
    assert type(back) is ItemCatalogue and back.items.equals(ITEMS) and back.hash == ItemCatalogue(ITEMS).hash
    assert back.numbers(["x y", "?"]).tolist() == [2, -1]
    with pytest.raises(CodeError, match="items without codes"):
        Catalogue.load(tmp_path)


def test_a_catalogue_with_codes_is_one_of_items_too(folder: Path) -> None:
    assert isinstance(ItemCatalogue.load(folder), Catalogue)
    assert isinstance(load_catalogue(folder), Catalogue)


def test_short_codes_are_written_without_their_padding() -> None:
    codes = np.array([[0, -1, -1], [1, 2, 4], [1, 3, -1]], np.int32)
    catalogue = Catalogue.of_symbols(ITEMS, codes, [2, 2, 1])
    assert catalogue.code_texts == ["<a_0>", "<a_1><b_0><c_0>", "<a_1><b_1>"]


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
