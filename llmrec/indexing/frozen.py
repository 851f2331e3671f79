"""Codes for items that come later: the quantizer stays as it is, and so does every code that was given.

A new item is coded by the frozen quantizer; where a method has none, it shares the prefix of the item nearest by text.
Then it gets a token that no item has there: a spare of the separating level or of the items' own, or the next number.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmrec.checked import read_arrays, read_checked
from llmrec.errors import CodeError
from llmrec.indexing import methods, pieces, quantizers, separate
from llmrec.indexing.catalogue import REMEDY, Catalogue
from llmrec.indexing.codes import Quantizer, RawCodes, symbols
from llmrec.indexing.kmeans import check_dim, check_finite
from llmrec.indexing.vectors import FILE, VectorSource
from llmrec.recipe import Indexing

SETTINGS, NEAR, WORDS = "indexing.json", "near.npz", "words.json"
KEPT = (SETTINGS, NEAR, WORDS, quantizers.BOOKS, quantizers.ARRAYS, FILE, pieces.FILE)


@dataclass(frozen=True)
class Frozen:
    """What a catalogue folder keeps for new items.

    Attributes:
        quantizer: None where the method has none.
        source: what the quantizer quantizes.
        text: (items, dim) float32 vectors of the first catalogue's items; empty where they are not needed.
        prefixes: (items, longest) int32 their symbols, without the token that is theirs alone.
        model: of the pieces; empty for none.
    """

    folder: Path
    settings: Indexing
    quantizer: Quantizer | None
    source: VectorSource
    text: np.ndarray
    prefixes: np.ndarray
    model: bytes

    @classmethod
    def load(cls, folder: Path) -> Frozen:
        """Read a catalogue folder.

        Raises:
            CodeError: it lacks what its method needs, or is damaged.
        """
        known = (folder / SETTINGS).is_file()  # older folders are residual k-means of text
        settings = read_checked(folder / SETTINGS, Indexing, REMEDY, CodeError) if known else Indexing()
        empty = np.zeros((0, 0), np.float32)
        near, kept = {"text": empty, "prefixes": empty}, (folder / NEAR).is_file()
        if kept:
            near = read_arrays(folder / NEAR, {"text": 2, "prefixes": 2}, REMEDY, CodeError)
        model = (folder / pieces.FILE).read_bytes() if (folder / pieces.FILE).is_file() else b""
        quantizer = quantizers.load(settings, folder)
        source = VectorSource.load(settings.fusion if quantizer else "text", folder)
        if len(near["text"]) != len(near["prefixes"]) or (kept and len(source.behaviour) not in (0, len(near["text"]))):
            raise CodeError(f"{folder / NEAR} is of other items than the rest of the folder. {REMEDY}")
        return cls(folder, settings, quantizer, source, near["text"], near["prefixes"], model)

    def copy(self, folder: Path) -> None:
        """Hand all of it on to the folder of a catalogue with more items."""
        for name in KEPT:
            if (self.folder / name).is_file():
                shutil.copy(self.folder / name, folder / name)

    def place(self, catalogue: Catalogue, items: pa.Table, text: np.ndarray) -> np.ndarray:
        """Codes of new items beside those of a catalogue: (new, longest) int32 symbols, padded at the end by -1.

        `text` is (new, dim) float32 unit vectors of their text, from the same encoder.

        Raises:
            CodeError: vectors of another encoder, or not enough spare tokens.
        """
        check_finite(text, items["item_id"])
        if len(self.text) and text.shape[1] != self.text.shape[1]:
            raise CodeError(
                f"vectors have {text.shape[1]} numbers but those of the catalogue {self.text.shape[1]}: they come from "
                "another encoder."
            )
        if self.quantizer is not None and self.source.name == "text":
            check_dim(text, self.quantizer.dim)
        if not len(text):
            return np.zeros((0, catalogue.codes.shape[1]), np.int32)
        if catalogue.ends == "numbers":
            return self._next(catalogue, len(text))
        if catalogue.ends == "moved":
            return self._moved(catalogue, text)
        return _ended(*self._prefixes(items, text), catalogue)

    def unknown(self, items: pa.Table) -> list[str]:
        """Ids of new items whose words or categories have no token: they go where the nearest item by text is."""
        if not self.spells:
            return []
        return items.filter(pa.array(self._spelled(items)[:, 0] < 0))["item_id"].to_pylist()

    @property
    def spells(self) -> bool:
        """Whether codes are words, and new items get those of their own."""
        return self.settings.method in ("title", "category") and not self.settings.append and not self.model

    def _prefixes(self, items: pa.Table, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(new, longest) int32 symbols without the last, and (new,) priority among twins."""
        if self.quantizer is not None and not self.settings.append:
            codes, residual = self.quantizer.encode(self.source.new(text, self.text))
            table = symbols(codes, range(codes.shape[1]), [self.settings.width] * codes.shape[1])
            priority = np.linalg.norm(residual, axis=1)
            return (pieces.cut(self.model, table)[0] if self.model else table), priority
        near = np.concatenate([(text[at : at + 1024] @ self.text.T).argmax(1) for at in range(0, len(text), 1024)])
        table = self.prefixes[near]
        if self.spells:
            own = self._spelled(items)
            width = max(own.shape[1], table.shape[1])
            table = np.where((own[:, :1] >= 0), _wide(own, width), _wide(table, width))
        return table, np.zeros(len(text))

    def _spelled(self, items: pa.Table) -> np.ndarray:
        """(new, longest) int32 symbols of the words of new items; -1 all along where a word has no token."""
        known: dict[int, list[str]] = read_checked(self.folder / WORDS, dict[int, list[str]], REMEDY, CodeError)
        raw = self._words(items)
        token = {kind: {word: number for number, word in enumerate(words)} for kind, words in known.items()}
        codes = np.full(raw.codes.shape, -1, np.int32)
        for column, kind in enumerate(raw.kinds):
            for row, number in enumerate(raw.codes[:, column].tolist()):
                if number >= 0:
                    codes[row, column] = token.get(kind, {}).get(raw.words[kind][number], -1)
        codes[((raw.codes >= 0) & (codes < 0)).any(axis=1)] = -1
        return symbols(codes, raw.kinds, [len(known.get(kind, ())) for kind in range(max(raw.kinds) + 1)])

    def _words(self, items: pa.Table) -> RawCodes:
        column = self.settings.category_column
        if self.settings.method == "title":
            return methods.title(items)
        if column not in items.column_names:
            items = items.append_column(column, pa.nulls(items.num_rows, pa.string()))
        return methods.category(items, column, self.settings.levels)

    def _moved(self, catalogue: Catalogue, text: np.ndarray) -> np.ndarray:
        """Nearest free codes, where no level separates."""
        assert self.quantizer is not None
        width, levels = self.settings.width, catalogue.codes.shape[1]
        starts = width * np.arange(levels, dtype=np.int32)
        vectors = self.source.new(text, self.text)
        codes, residual = self.quantizer.encode(vectors)
        taken = set(map(tuple, (catalogue.codes - starts).tolist()))
        return separate.nearest_free(codes, np.linalg.norm(residual, axis=1), vectors, self.quantizer, taken) + starts

    def _next(self, catalogue: Catalogue, count: int) -> np.ndarray:
        """The next numbers, where codes are numbers."""
        width, levels = self.settings.width, catalogue.codes.shape[1]
        worth = width ** np.arange(levels - 1, -1, -1, dtype=np.int64)
        starts = width * np.arange(levels, dtype=np.int32)
        first = int(((catalogue.codes - starts) @ worth).max()) + 1
        if first + count > width**levels:
            raise CodeError(
                f"{count} new item(s) need numbers from {first}, but {levels} digits end at {width**levels - 1}. "
                "Train anew, with a larger indexing.reserved_tokens."
            )
        numbers = np.arange(first, first + count)[:, None] // worth % width
        return (numbers + starts).astype(np.int32)


def _ended(prefixes: np.ndarray, priority: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """End new codes, (new, longest) int32 symbols padded by -1, with a token that no item of the catalogue has there.

    Raises:
        CodeError: there are not enough spare tokens.
    """
    first, width = catalogue.first_of_last, catalogue.widths[-1]
    old, lasts = catalogue.prefixes
    columns = max(prefixes.shape[1], old.shape[1], 1)
    if catalogue.ends == "own":  # a token is one item's, whatever stands before it
        group: np.ndarray = np.zeros(len(old) + len(prefixes), np.int64)
    else:
        table = np.concatenate([_wide(old, columns), _wide(prefixes, columns)])
        group = np.unique(table, axis=0, return_inverse=True)[1].ravel()
    highest = np.full(int(group.max()) + 1, -1)
    np.maximum.at(highest, group[: len(old)], lasts - first)
    new = group[len(old) :]
    number = separate.last_level(new[:, None].astype(np.int32), priority)[:, 1] + highest[new] + 1
    short = int((number >= width).sum())
    if short:
        level = "level of items' own tokens" if catalogue.ends == "own" else "separating level"
        raise CodeError(
            f"{short} new item(s) find no spare token on the {level}, which has {width}. "
            "Train anew, with a larger indexing.reserved_tokens."
        )
    table = _wide(prefixes, prefixes.shape[1] + 1)
    table[np.arange(len(table)), (prefixes >= 0).sum(axis=1)] = first + number
    return table


def _wide(table: np.ndarray, columns: int) -> np.ndarray:
    """A table padded by -1 to so many columns."""
    return np.pad(table, ((0, 0), (0, columns - table.shape[1])), constant_values=-1).astype(np.int32)
