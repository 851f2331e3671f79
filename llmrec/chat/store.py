"""What the chat knows of the catalogue: titles, attributes by column, and which items fulfil a wish."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from llmrec.chat.words import Key, key
from llmrec.items.text import number_of, values_of

FEW = 200  # a column with at most as many values is a vocabulary, whose words mean the value wherever they are said
_LONG = 60  # characters of a value, on average, beyond which a column is text and no attribute
_YEAR = re.compile(r"\byear|\bdate|released?\b", re.I)


@dataclass(frozen=True)
class Thing:
    """An item.

    Attributes:
        item_id, title: of it.
        code: as the model writes it.
        columns: all else that the catalogue says of it.
    """

    item_id: str
    title: str
    code: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What somebody wants of a column, or does not want.

    Attributes:
        column: of the items.
        wanted: false for "no …".
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
            return " or ".join(self.values) if self.wanted else f"not {' or '.join(self.values)}"
        low, high = (f"{limit:g}" for limit in (self.low, self.high))
        ends = {(False, True): f"{low} or more", (True, False): f"at most {high}", (False, False): f"{low} to {high}"}
        said = f"{self.column} {low if self.low == self.high else ends.get((np.isinf(self.low), np.isinf(self.high)))}"
        return said if self.wanted else f"not {said}"


@dataclass(frozen=True)
class Column:
    """An attribute.

    Attributes:
        name: of the column.
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
        return len(self.holders) <= FEW


class Store:
    """The items of one catalogue."""

    def __init__(self, catalogue: str, things: list[Thing]) -> None:
        """Look at the items.

        Args:
            catalogue: its hash.
            things: in the order of the catalogue.
        """
        self.catalogue, self.things = catalogue, things
        self.number = {thing.item_id: at for at, thing in enumerate(things)}
        names = list(dict.fromkeys(name for thing in things for name in thing.columns))
        found = (_column(name, [thing.columns.get(name) for thing in things]) for name in names)
        self.columns = {column.name: column for column in found if column}

    def __len__(self) -> int:
        return len(self.things)

    @cached_property
    def by_code(self) -> dict[str, int]:
        """Item number by code."""
        return {thing.code: at for at, thing in enumerate(self.things)}

    def kind(self, kind: str) -> Column | None:
        """The first column of a kind."""
        return next((column for column in self.columns.values() if column.kind == kind), None)

    def traits(self, number: int) -> list[tuple[str, str]]:
        """Column and value of an item's attributes, as shown."""
        columns = self.things[number].columns
        return [(name, _plain(columns.get(name))) for name in self.columns if _plain(columns.get(name))]

    def values(self, number: int) -> set[tuple[str, str]]:
        """Column and value of what an item has of the small vocabularies."""
        small = [column for column in self.columns.values() if column.kind == "values" and column.small]
        cells = ((column.name, self.things[number].columns.get(column.name)) for column in small)
        return {(name, value) for name, cell in cells for value in values_of(cell)}

    def short(self, wish: Wish) -> np.ndarray:
        """(items,) float64 how far each item is from a wish: 0 fulfilled, 1 or more not at all."""
        column = self.columns[wish.column]
        if wish.values:
            has = np.zeros(len(self), bool)
            for value in wish.values:
                has[column.holders.get(value, [])] = True
            return np.where(has == wish.wanted, 0.0, 1.0)
        below, above = wish.low - column.numbers, column.numbers - wish.high
        inside = (below <= 0) & (above <= 0)
        if not wish.wanted:
            return np.where(inside, 1.0, 0.0)
        spread = max(1e-9, float(np.nanmax(column.numbers) - np.nanmin(column.numbers)))
        away = np.maximum(0, np.maximum(below, above)) / spread
        return np.where(np.isnan(column.numbers), 10.0, np.where(inside, 0.0, np.maximum(away, 1e-9)))


def _column(name: str, cells: list[Any]) -> Column | None:
    """A column as an attribute; None where it is text, or says nothing."""
    given = [cell for cell in cells if cell not in (None, "", [])]
    numbers = np.array([number_of(cell) for cell in cells], np.float64)
    if not given:
        return None
    if _YEAR.search(name) or np.isfinite(numbers).sum() == len(given):
        year = _YEAR.search(name) or (np.nanmin(numbers) >= 1000 and np.nanmax(numbers) <= 2100)
        return Column(name, "year" if year else "number", numbers, {}, {}) if np.isfinite(numbers).any() else None
    if np.mean([len(_plain(cell)) for cell in given]) > _LONG:
        return None
    holders: dict[str, list[int]] = {}
    for at, cell in enumerate(cells):
        for value in values_of(cell):
            holders.setdefault(value, []).append(at)
    return Column(name, "values", numbers, holders, {key(value): value for value in holders if key(value)})


def _plain(cell: Any) -> str:
    if isinstance(cell, list):
        return ", ".join(str(one) for one in cell)
    return f"{cell:g}" if isinstance(cell, float) else "" if cell is None else str(cell)
