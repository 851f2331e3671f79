"""New items for a catalogue: old items keep their codes, new ones get free codes.

The fitted quantizer encodes a new item; without a quantizer, the item takes the prefix of its nearest item by text.
Then it gets a token that no item has there: a reserved token of the deduplication level or of the items' own tokens, or
the next number.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.checked import read_arrays, read_checked
from llmrec.errors import CodeError, DataError
from llmrec.files import atomic_folder
from llmrec.indexing import bpe, collisions, methods, quantizers
from llmrec.indexing.catalogue import HASH_DIGITS, REMEDY, Catalogue
from llmrec.indexing.codes import Quantizer, to_symbols
from llmrec.indexing.health import measure_health
from llmrec.indexing.kmeans import check_dim, check_finite
from llmrec.indexing.vectors import FILE, VectorSource
from llmrec.items.item_text import item_texts
from llmrec.items.item_vectors import encode
from llmrec.recipe import Indexing, ItemText

SETTINGS, NEAREST, WORDS = "indexing.json", "near.npz", "words.json"
_FILES = (SETTINGS, NEAREST, WORDS, quantizers.BOOKS, quantizers.ARRAYS, FILE, bpe.FILE)


@dataclass(frozen=True)
class FittedIndex:
    """The fitted part of a catalogue folder: what encodes new items.

    Attributes:
        quantizer: None if the method has none.
        source: of the vectors that are quantized.
        text: (items, dim) float32 text vectors of the first catalogue's items; empty if they are not needed.
        prefixes: (items, longest) int32 their symbols without the deduplication or per-item token.
        bpe_model: empty for none.
    """

    folder: Path
    settings: Indexing
    quantizer: Quantizer | None
    source: VectorSource
    text: np.ndarray
    prefixes: np.ndarray
    bpe_model: bytes

    @classmethod
    def load(cls, folder: Path) -> FittedIndex:
        """Read a catalogue folder; CodeError if a file that its method needs is missing or damaged."""
        settings = read_checked(folder / SETTINGS, Indexing, REMEDY, CodeError)
        empty = np.zeros((0, 0), np.float32)
        nearest, has_nearest = {"text": empty, "prefixes": empty}, (folder / NEAREST).is_file()
        if has_nearest:
            nearest = read_arrays(folder / NEAREST, {"text": 2, "prefixes": 2}, REMEDY, CodeError)
        text, prefixes = nearest["text"], nearest["prefixes"]
        bpe_model = (folder / bpe.FILE).read_bytes() if (folder / bpe.FILE).is_file() else b""
        quantizer = quantizers.load(settings, folder)
        source = VectorSource.load(settings.fusion if quantizer else "text", folder)
        if len(text) != len(prefixes) or (has_nearest and len(source.collaborative) not in (0, len(text))):
            raise CodeError(f"{folder / NEAREST} is of other items than the rest of the folder. {REMEDY}")
        return cls(folder, settings, quantizer, source, text, prefixes, bpe_model)

    def copy(self, folder: Path) -> None:
        """Copy its files to the folder of a catalogue with more items."""
        for name in _FILES:
            if (self.folder / name).is_file():
                shutil.copy(self.folder / name, folder / name)

    def encode_new(self, catalogue: Catalogue, items: pa.Table, text: np.ndarray) -> np.ndarray:
        """Assign free codes to new items: (new, longest) int32 symbols, padded at the end by -1.

        `text` is (new, dim) float32 unit text vectors, from the encoder of the catalogue.

        Raises:
            CodeError: vectors of another encoder, or not enough reserved tokens.
        """
        check_finite(text, items["item_id"])
        if len(self.text) and text.shape[1] != self.text.shape[1]:
            raise CodeError(
                f"vectors have {text.shape[1]} numbers but those of the catalogue {self.text.shape[1]}: they come from "
                "another encoder."
            )
        if self.quantizer is not None and self.source.fusion == "text":
            check_dim(text, self.quantizer.dim)
        if not len(text):
            return np.zeros((0, catalogue.codes.shape[1]), np.int32)
        if catalogue.suffix == "none":
            return self._next_numbers(catalogue, len(text))
        if catalogue.suffix == "reassigned":
            return self._nearest_free(catalogue, text)
        return _with_free_suffix(*self._prefixes(items, text), catalogue)

    def unknown_words(self, items: pa.Table) -> list[str]:
        """Ids of new items with words or categories that have no token: they get the prefix of their nearest item."""
        if not self._has_words:
            return []
        return items.filter(pa.array(self._word_codes(items)[:, 0] < 0))["item_id"].to_pylist()

    @property
    def _has_words(self) -> bool:
        """Whether codes are words."""
        return self.settings.method in ("title", "category") and not self.settings.append and not self.bpe_model

    def _prefixes(self, items: pa.Table, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(new, longest) int32 symbols without the last, and (new,) priority among equal codes."""
        if self.quantizer is not None and not self.settings.append:
            codes, residual = self.quantizer.encode(self.source.of_new_items(text, self.text))
            table = to_symbols(codes, range(codes.shape[1]), [self.settings.width] * codes.shape[1])
            priority = np.linalg.norm(residual, axis=1)
            return (bpe.encode(self.bpe_model, table)[0] if self.bpe_model else table), priority
        blocks = [text[first : first + 1024] for first in range(0, len(text), 1024)]
        table = self.prefixes[np.concatenate([(block @ self.text.T).argmax(1) for block in blocks])]
        if self._has_words:
            words = self._word_codes(items)
            width = max(words.shape[1], table.shape[1])
            table = np.where((words[:, :1] >= 0), _pad(words, width), _pad(table, width))
        return table, np.zeros(len(text))

    def _word_codes(self, items: pa.Table) -> np.ndarray:
        """(new, longest) int32 symbols of the words of new items; a row of -1 where a word has no token."""
        known: dict[int, list[str]] = read_checked(self.folder / WORDS, dict[int, list[str]], REMEDY, CodeError)
        if self.settings.method == "title":
            raw = methods.title(items)
        else:
            column = self.settings.category_column
            if column not in items.column_names:
                items = items.append_column(column, pa.nulls(items.num_rows, pa.string()))
            raw = methods.category(items, column, self.settings.levels)
        codes = np.full(raw.codes.shape, -1, np.int32)
        for level, group in enumerate(raw.token_groups):
            number = {word: n for n, word in enumerate(known.get(group, ()))}
            numbers = np.array([number.get(word, -1) for word in raw.words[group]])
            codes[:, level] = np.where(raw.codes[:, level] >= 0, numbers[raw.codes[:, level]], -1)
        codes[((raw.codes >= 0) & (codes < 0)).any(axis=1)] = -1
        widths = [len(known.get(group, ())) for group in range(max(raw.token_groups) + 1)]
        return to_symbols(codes, raw.token_groups, widths)

    def _nearest_free(self, catalogue: Catalogue, text: np.ndarray) -> np.ndarray:
        """Nearest free codes, for catalogues without a deduplication level."""
        assert self.quantizer is not None
        starts = self.settings.width * np.arange(catalogue.codes.shape[1], dtype=np.int32)
        vectors = self.source.of_new_items(text, self.text)
        codes, residual = self.quantizer.encode(vectors)
        taken = set(map(tuple, (catalogue.codes - starts).tolist()))
        return collisions.reassign(codes, np.linalg.norm(residual, axis=1), vectors, self.quantizer, taken) + starts

    def _next_numbers(self, catalogue: Catalogue, count: int) -> np.ndarray:
        """The next numbers, for codes that are numbers."""
        width, levels = self.settings.width, catalogue.codes.shape[1]
        powers = width ** np.arange(levels - 1, -1, -1, dtype=np.int64)
        starts = width * np.arange(levels, dtype=np.int32)
        first = int(((catalogue.codes - starts) @ powers).max()) + 1
        if first + count > width**levels:
            raise CodeError(
                f"{count} new item(s) need numbers from {first}, but {levels} digits end at {width**levels - 1}. "
                "Train anew, with a larger indexing.reserved_tokens."
            )
        numbers = np.arange(first, first + count)[:, None] // powers % width
        return (numbers + starts).astype(np.int32)


def _with_free_suffix(prefixes: np.ndarray, priority: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """Append to new codes, (new, longest) int32 symbols padded by -1, a token that no item has after that prefix."""
    first, width = catalogue.first_of_last, catalogue.widths[-1]
    old, lasts = catalogue.prefixes
    columns = max(prefixes.shape[1], old.shape[1], 1)
    if catalogue.suffix == "per-item":  # a token belongs to one item, whatever its prefix
        group: np.ndarray = np.zeros(len(old) + len(prefixes), np.int64)
    else:
        table = np.concatenate([_pad(old, columns), _pad(prefixes, columns)])
        group = np.unique(table, axis=0, return_inverse=True)[1].ravel()
    highest = np.full(int(group.max()) + 1, -1)
    np.maximum.at(highest, group[: len(old)], lasts - first)
    new = group[len(old) :]
    number = collisions.add_level(new[:, None].astype(np.int32), priority)[:, 1] + highest[new] + 1
    missing = int((number >= width).sum())
    if missing:
        level = "level of per-item tokens" if catalogue.suffix == "per-item" else "deduplication level"
        raise CodeError(
            f"{missing} new item(s) find no reserved token on the {level}, which has {width} tokens. "
            "Train anew, with a larger indexing.reserved_tokens."
        )
    table = _pad(prefixes, prefixes.shape[1] + 1)
    table[np.arange(len(table)), (prefixes >= 0).sum(axis=1)] = first + number
    return table


def _pad(table: np.ndarray, columns: int) -> np.ndarray:
    """A table padded by -1 to so many columns."""
    return np.pad(table, ((0, 0), (0, columns - table.shape[1])), constant_values=-1).astype(np.int32)


def extend(old: Path, items: pa.Table, text: np.ndarray, seed: int, folder: Path) -> dict[str, Any]:
    """Write a catalogue folder in which items of an earlier catalogue keep their codes and new items get free ones.

    Quantizer and tokens stay as they are: new items use reserved tokens. The code of a removed item is not reused.

    Args:
        old: the earlier catalogue folder.
        items, text: table and (items, dim) text vectors of the new catalogue, from the same encoder.
        seed: of the health report's sample.
        folder: of the new catalogue.

    Returns:
        Facts for made.json, with the numbers of kept and new codes.

    Raises:
        CodeError: vectors of another encoder, or not enough reserved tokens.
    """
    before, fitted = Catalogue.load(old), FittedIndex.load(old)
    known = before.numbers(items["item_id"])
    catalogue = _extended(before, fitted, items, known, text[known < 0])
    report = _write(catalogue, fitted, text, seed, folder)
    facts = {"codes kept": int((known >= 0).sum()), "new codes": int((known < 0).sum())}
    return {"verdict": report["verdict"], **facts}


def _extended(
    before: Catalogue, fitted: FittedIndex, items: pa.Table, known: np.ndarray, text: np.ndarray
) -> Catalogue:
    """The catalogue of `items`: `known` (items,) is the old number or -1 for new items, whose vectors are `text`."""
    new = np.flatnonzero(known < 0)
    new_codes = fitted.encode_new(before, items.take(pa.array(new)), text)
    codes = np.full((len(known), max(new_codes.shape[1], before.codes.shape[1])), -1, np.int32)
    codes[known >= 0, : before.codes.shape[1]] = before.codes[known[known >= 0]]
    codes[new, : new_codes.shape[1]] = new_codes
    codes = codes[:, : int((codes >= 0).sum(axis=1).max())]
    return Catalogue.of_symbols(items, codes, before.widths, before.suffix, before.lineage)


def _write(
    catalogue: Catalogue, fitted: FittedIndex, text: np.ndarray | None, seed: int, folder: Path
) -> dict[str, Any]:
    """Write the folder of an extended catalogue; return its health report."""
    report = measure_health(
        catalogue.codes,
        catalogue.widths,
        text,
        seed,
        items=catalogue.items,
        settings=fitted.settings,
        suffix=catalogue.suffix,
    )
    fitted.copy(folder)
    catalogue.save(folder, report)
    return report


def add(file: Path, old: Path, settings: ItemText, seed: int, parent: Path) -> tuple[Path, dict[str, Any]]:
    """Add new items to a catalogue and write a new catalogue folder; the old one stays as it is.

    Args:
        file: Parquet or CSV with item_id and the columns of the old items; items that have a code are skipped.
        old: the catalogue folder to add to; see `catalogue.find_catalogue`.
        settings: `items` of the recipe.
        seed: of the run.
        parent: folder of the new catalogue folder, which is named by its hash.

    Returns:
        The folder, and facts: its hash, the numbers of kept and new codes, and the ids of new items with words or
        categories that have no token, which got the prefix of their nearest item by text.

    Raises:
        CodeError: the old catalogue is damaged, all items have codes, or there are not enough reserved tokens.
        DataError: a column is missing, an item id occurs twice, or items have no text.
    """
    before, fitted = Catalogue.load(old), FittedIndex.load(old)
    new = _new_rows(_read(file), before, file)
    text = encode(item_texts(new, settings.text, settings.missing_text), settings.encoder)
    known = np.append(np.arange(len(before)), np.full(new.num_rows, -1))
    catalogue = _extended(before, fitted, pa.concat_tables([before.items, new]), known, text)
    folder = parent / catalogue.hash[:HASH_DIGITS]
    with atomic_folder(folder, lambda same: (same / "catalogue.json").is_file()) as partial:
        report = _write(catalogue, fitted, None, seed, partial)
    facts = {"hash": catalogue.hash, "codes kept": len(before), "new codes": new.num_rows}
    return folder, facts | {"placed by text": fitted.unknown_words(new), "verdict": report["verdict"]}


def _read(file: Path) -> pa.Table:
    if not file.is_file():
        raise DataError(f"there is no file {file}. Give a Parquet or CSV file with a column item_id.")
    try:
        if file.suffix == ".csv":
            from pyarrow import csv

            table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types={"item_id": pa.string()}))
        else:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet or CSV: {str(error).splitlines()[0]}") from error
    if "item_id" not in table.column_names:
        raise DataError(
            f"{file} has no column item_id, but: {', '.join(table.column_names)}. Rename the one that is it."
        )
    return table.set_column(table.column_names.index("item_id"), "item_id", table["item_id"].cast(pa.string()))


def _new_rows(table: pa.Table, before: Catalogue, file: Path) -> pa.Table:
    """The rows of items without a code, in the columns of the catalogue; missing columns are empty."""
    ids = table["item_id"].to_pylist()
    if None in ids or len(set(ids)) < len(ids):
        bad = next(item_id for item_id, count in Counter(ids).most_common() if item_id is None or count > 1)
        raise DataError(f"{file} has the item_id '{bad}' empty or twice. Every row needs an id of its own.")
    table = table.filter(pa.array(before.numbers(ids) < 0))
    if not table.num_rows:
        raise CodeError(f"every item of {file} has a code already, so there is nothing to add.")
    columns = {}
    for field in before.items.schema:
        try:
            column = table[field.name].combine_chunks() if field.name in table.column_names else None
            columns[field.name] = pa.nulls(table.num_rows, field.type) if column is None else column.cast(field.type)
        except pa.ArrowException as error:
            raise DataError(f"{file}: the column {field.name} is not of type {field.type} ({error}).") from error
    return pa.table(columns, schema=before.items.schema)
