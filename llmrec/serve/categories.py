"""Categories: the items whose column holds a value, found once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llmrec.decode.filters import Subset
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.refused import Refused

_USUAL = ("category", "categories", "genre", "genres", "kind", "brand", "type")
_KEPT = 64  # categories


@dataclass(frozen=True)
class Category:
    """Some of the items.

    Attributes:
        mask: (items,) bool by item number.
        subset: the same, as filters take it.
    """

    mask: np.ndarray
    subset: Subset


class Categories:
    """The columns of a catalogue's items, as filters. A cell may hold several values: a list, or a text with commas."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Look at a catalogue."""
        self._catalogue = catalogue
        self.columns = [name for name in catalogue.items.column_names if name not in ("item_id", "title")]
        self._kept = lru_cache(maxsize=_KEPT)(self._find)
        self._numbers = lru_cache(maxsize=4)(self._index)

    def wanted(self, category: str | dict[str, str] | None) -> Category | None:
        """The items of every category named; None where none is.

        Raises:
            Refused: there is no such column, or no item has such a value there.
        """
        if category is None:
            return None
        if category == {}:
            raise Refused(422, f"name a column and a value of it; there are {self._known()}.", "category")
        named = {self._usual(): category} if isinstance(category, str) else category
        return self._kept(tuple(sorted((column, value.strip().lower()) for column, value in named.items())))

    def _usual(self) -> str:
        found = [name for name in _USUAL if name in self.columns]
        if not found:
            raise Refused(422, f"say which column: {self._known()}.", "category")
        return found[0]

    def _find(self, named: tuple[tuple[str, str], ...]) -> Category:
        mask = np.logical_and.reduce([self._mask(*one) for one in named])
        return Category(mask, Subset(self._catalogue.trie, mask))

    def _mask(self, column: str, value: str) -> np.ndarray:
        if column not in self.columns:
            raise Refused(422, f"items have no such column; there are {self._known()}.", "category")
        numbers = self._numbers(column).get(value, [])
        if not len(numbers):
            raise Refused(422, f"no item has this value in its column '{column}'.", "category")
        mask = np.zeros(self._catalogue.items.num_rows, bool)
        mask[numbers] = True
        return mask

    def _index(self, column: str) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, cell in enumerate(self._catalogue.items[column].to_pylist()):
            for value in _values(cell):
                found.setdefault(value, []).append(number)
        return found

    def _known(self) -> str:
        return ", ".join(f"'{name}'" for name in self.columns) or "none"


def _values(cell: object) -> set[str]:
    """A cell's values in lower case: the whole, and its parts; "" is none."""
    if cell is None:
        return set()
    parts = [str(part) for part in cell] if isinstance(cell, list) else [str(cell), *str(cell).split(",")]
    return {part.strip().lower() for part in parts} - {""}
