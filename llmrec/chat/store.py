"""What the chat knows of a catalogue: items, their attributes, which of them meet a constraint, and their vectors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmrec.chat.words import Key, key
from llmrec.indexing.catalogue import Catalogue
from llmrec.items import read_vectors
from llmrec.items.item_text import split_values, to_number
from llmrec.items.item_vectors import encode
from llmrec.run.layout import RunFolder, recipe_of

FEW = 200  # a column with at most as many values is a vocabulary, whose words mean the value wherever they are said
_LONG = 60  # characters of a value, on average, beyond which a column is text and no attribute
_YEAR = re.compile(r"\byear|\bdate|released?\b", re.I)


@dataclass(frozen=True)
class CatalogueItem:
    """An item: its code as the model writes it, and all columns but id and title."""

    item_id: str
    title: str
    code: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class ItemConstraint:
    """What is wanted of a column, or not wanted.

    Attributes:
        values: of a column with values, as the catalogue writes them; any of them will do.
        low, high: of a column with numbers, both included.
    """

    column: str
    wanted: bool = True
    values: tuple[str, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        """As it is shown: `Comedy`, `not Horror`, `year 1990 to 1999`."""
        if self.values:
            text = " or ".join(self.values)
        elif self.low == self.high:
            text = f"{self.column} {self.low:g}"
        elif np.isinf(self.high):
            text = f"{self.column} {self.low:g} or more"
        else:
            text = f"{self.column} {'at most' if np.isinf(self.low) else f'{self.low:g} to'} {self.high:g}"
        return text if self.wanted else f"not {text}"


@dataclass(frozen=True)
class Column:
    """An attribute.

    Attributes:
        kind: values, year, or number (a price).
        numbers: (items,) float64, NaN where an item has none; of columns with numbers.
        holders: value → item numbers; of columns with values.
        shown: key of a value → the value as the catalogue writes it.
    """

    name: str
    kind: Literal["values", "year", "number"]
    numbers: np.ndarray
    holders: dict[str, list[int]]
    shown: dict[Key, str]

    @property
    def small(self) -> bool:
        """Whether its values are a vocabulary."""
        return self.kind == "values" and len(self.holders) <= FEW


class Store:
    """The items of one catalogue, in its order.

    Attributes:
        catalogue: its hash.
        number: item number by id.
    """

    def __init__(self, catalogue: str, items: list[CatalogueItem]) -> None:
        self.catalogue, self.items = catalogue, items
        self.number = {item.item_id: at for at, item in enumerate(items)}
        names = list(dict.fromkeys(name for item in items for name in item.columns))
        columns = (_column(name, [item.columns.get(name) for item in items]) for name in names)
        self.columns = {column.name: column for column in columns if column}

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def by_code(self) -> dict[str, int]:
        """Item number by code."""
        return {item.code: at for at, item in enumerate(self.items)}

    @cached_property
    def vocabularies(self) -> list[Column]:
        """Columns of few values, such as genres."""
        return [column for column in self.columns.values() if column.small]

    def kind(self, kind: str) -> Column | None:
        """The first column of a kind."""
        return next((column for column in self.columns.values() if column.kind == kind), None)

    def title(self, item_id: str, with_year: bool = False) -> str:
        """What an item is called, its id where the catalogue lacks it; with the year where that is known."""
        at = self.number.get(item_id)
        if at is None:
            return item_id
        column = self.kind("year") if with_year else None
        year = column.numbers[at] if column else np.nan
        return self.items[at].title + (f" ({year:.0f})" if np.isfinite(year) else "")

    def traits(self, number: int) -> list[tuple[str, str]]:
        """Column and value of an item's attributes, as shown."""
        cells = [(name, _plain(self.items[number].columns.get(name))) for name in self.columns]
        return [(name, text) for name, text in cells if text]

    def values(self, number: int) -> set[tuple[str, str]]:
        """Column and value of what an item has of the vocabularies."""
        columns = self.items[number].columns
        return {
            (column.name, value) for column in self.vocabularies for value in split_values(columns.get(column.name))
        }

    def distance(self, constraint: ItemConstraint) -> np.ndarray:
        """(items,) float64 how far each item is from a constraint: 0 met, 1 or more not at all."""
        column = self.columns[constraint.column]
        if constraint.values:
            has = np.zeros(len(self), bool)
            for value in constraint.values:
                has[column.holders.get(value, [])] = True
            return np.where(has == constraint.wanted, 0.0, 1.0)
        below, above = constraint.low - column.numbers, column.numbers - constraint.high
        inside = (below <= 0) & (above <= 0)
        if not constraint.wanted:
            return np.where(inside, 1.0, 0.0)
        spread = max(1e-9, float(np.nanmax(column.numbers) - np.nanmin(column.numbers)))
        away = np.maximum(0, np.maximum(below, above)) / spread
        return np.where(np.isnan(column.numbers), 10.0, np.where(inside, 0.0, np.maximum(away, 1e-9)))


class SemanticIndex:
    """Vectors of a store's items, and of texts.

    Args:
        encoder: that made them, a key of `ENCODERS`; it also reads texts.
        vectors: (items, dim) float32 of length 1, in the order of the store.
    """

    def __init__(self, encoder: str, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self._encoded = lru_cache(maxsize=500)(lambda text: encode([text], encoder)[0])

    @classmethod
    def of(cls, store: Store, encoder: str, run: Path | None = None) -> SemanticIndex:
        """The vectors of a run where it has them, the others made from titles and attributes.

        Args:
            run: a run folder, or an export, which has no vectors.
        """
        known: dict[str, np.ndarray] = {}
        if run and RunFolder(run).is_run() and recipe_of(run).items.encoder == encoder:
            ids = Catalogue.load(RunFolder(run).catalogue).item_ids
            known = dict(zip(ids, read_vectors(RunFolder(run).items, len(ids)), strict=True))
        missing = [at for at, item in enumerate(store.items) if item.item_id not in known]
        if missing:
            names = [store.items[at].title or store.items[at].item_id for at in missing]
            texts = [
                "; ".join([name, *(f"{column}: {value}" for column, value in store.traits(at))])
                for at, name in zip(missing, names, strict=True)
            ]
            known |= {store.items[at].item_id: row for at, row in zip(missing, encode(texts, encoder), strict=True)}
        return cls(encoder, np.stack([known[item.item_id] for item in store.items]).astype(np.float32))

    def to_text(self, text: str) -> np.ndarray:
        """(items,) cosine of each item to a text."""
        return self.vectors @ self._encoded(text)

    def to_item(self, number: int) -> np.ndarray:
        """(items,) cosine of each item to an item."""
        return self.vectors @ self.vectors[number]


def _column(name: str, cells: list[Any]) -> Column | None:
    """A column as an attribute; None where it is text, or says nothing."""
    given = [cell for cell in cells if cell not in (None, "", [])]
    if not given:
        return None
    numbers = np.array([to_number(cell) for cell in cells], np.float64)
    if _YEAR.search(name) or np.isfinite(numbers).sum() == len(given):
        year = _YEAR.search(name) or (np.nanmin(numbers) >= 1000 and np.nanmax(numbers) <= 2100)
        return Column(name, "year" if year else "number", numbers, {}, {}) if np.isfinite(numbers).any() else None
    if np.mean([len(_plain(cell)) for cell in given]) > _LONG:
        return None
    holders: dict[str, list[int]] = {}
    for at, cell in enumerate(cells):
        for value in split_values(cell):
            holders.setdefault(value, []).append(at)
    return Column(name, "values", numbers, holders, {key(value): value for value in holders if key(value)})


def _plain(cell: Any) -> str:
    """A cell as it is shown; "" for None."""
    if isinstance(cell, list):
        return ", ".join(map(str, cell))
    return f"{cell:g}" if isinstance(cell, float) else "" if cell is None else str(cell)
