"""Constraints of a request on columns of the items, as sets of items; found once and kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from llmrec.contracts import ItemSet
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.text import number_of, values_of
from llmrec.serve.refused import Refused
from llmrec.serve.shapes import Constraint

_USUAL = ("category", "categories", "genre", "genres", "kind", "brand", "type")
_KEPT = 64  # combinations of constraints
_COLUMNS = 8  # columns whose values or numbers are kept


class Constraints:
    """The columns of a catalogue's items. A cell may hold several values: a list, or a text with commas or bars."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Use the columns of a catalogue."""
        self._items = catalogue.items
        self.columns = [name for name in catalogue.items.column_names if name not in ("item_id", "title")]
        self._kept = lru_cache(maxsize=_KEPT)(self._set)
        self._values = lru_cache(maxsize=_COLUMNS)(self._index)
        self._numbers = lru_cache(maxsize=_COLUMNS)(self._parsed)

    def items(self, category: str | dict[str, str] | None, where: dict[str, Constraint]) -> ItemSet | None:
        """The items that meet all constraints; None where there are none.

        Args:
            category: a value of the usual column, or column → value.
            where: column → constraint.

        Raises:
            Refused: there is no such column, or no item has such a value or number there.
        """
        if category == {}:
            raise Refused(422, f"name a column and a value of it; there are {self._known()}.", "category")
        named = {self._usual(): category} if isinstance(category, str) else category or {}
        wanted = [("category", column, Constraint(any=[value])) for column, value in named.items()]
        wanted += [("where", column, constraint) for column, constraint in where.items()]
        if not wanted:
            return None
        return self._kept(
            tuple((field, column, _key(constraint)) for field, column, constraint in sorted(wanted, key=str))
        )

    def _usual(self) -> str:
        found = [name for name in _USUAL if name in self.columns]
        if not found:
            raise Refused(422, f"say which column: {self._known()}.", "category")
        return found[0]

    def _set(self, wanted: tuple[tuple[str, str, Any], ...]) -> ItemSet:
        return ItemSet(np.logical_and.reduce([self._mask(*one) for one in wanted]))

    def _mask(self, field: str, column: str, key: tuple[Any, ...]) -> np.ndarray:
        """(items,) bool, which items meet one constraint."""
        if column not in self.columns:
            raise Refused(422, f"items have no such column; there are {self._known()}.", field)
        any_of, none_of, low, high = key
        mask = np.ones(self._items.num_rows, bool)
        if any_of:
            mask &= self._holders(column, any_of)
            if not mask.any():
                raise Refused(422, f"no item has this value in its column '{column}'.", field)
        if none_of:
            mask &= ~self._holders(column, none_of)
        if low is not None or high is not None:
            numbers = self._numbers(column)
            if np.isnan(numbers).all():
                raise Refused(422, f"the column '{column}' holds no numbers: use `any` or `none`.", field)
            mask &= (numbers >= (-np.inf if low is None else low)) & (numbers <= (np.inf if high is None else high))
        return mask

    def _holders(self, column: str, values: tuple[str, ...]) -> np.ndarray:
        mask = np.zeros(self._items.num_rows, bool)
        for value in values:
            mask[self._values(column).get(value, [])] = True
        return mask

    def _index(self, column: str) -> dict[str, list[int]]:
        """Value in lower case → item numbers; a whole cell is a value, too."""
        found: dict[str, list[int]] = {}
        for number, cell in enumerate(self._items[column].to_pylist()):
            whole = [] if cell is None or isinstance(cell, list) else [str(cell).strip()]
            for value in {one.lower() for one in [*values_of(cell), *whole] if one}:
                found.setdefault(value, []).append(number)
        return found

    def _parsed(self, column: str) -> np.ndarray:
        """(items,) float64, NaN where a cell is no number."""
        return np.array([number_of(cell) for cell in self._items[column].to_pylist()], np.float64)

    def _known(self) -> str:
        return ", ".join(f"'{name}'" for name in self.columns) or "none"


def _key(constraint: Constraint) -> tuple[Any, ...]:
    values = (tuple(sorted(value.strip().lower() for value in listed)) for listed in (constraint.any, constraint.none))
    return (*values, constraint.min, constraint.max)
