"""Look-ups that requests need: users' histories, items by their columns, and items page by page."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.collaborative.counts import users_of_items
from llmrec.contracts import ItemSet
from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.text import split_values, to_number
from llmrec.serve.schemas import ApiError, CatalogueItem, ColumnConstraint, ItemsResponse

_USUAL = ("category", "categories", "genre", "genres", "kind", "brand", "type")
_KEPT = 64  # combinations of constraints
_COLUMNS = 8  # columns whose values or numbers are kept


class Users:
    """Users of the run's data, by id; none in an export."""

    def __init__(self, folder: Path | None) -> None:
        """Read the interactions in a run's `data/`; None where there is none."""
        self._data = Dataset.load(folder, texts=False) if folder else None
        self._number = {user: at for at, user in enumerate(self._data.user_ids)} if self._data else {}

    def __len__(self) -> int:
        return len(self._number)

    @property
    def ids(self) -> list[str]:
        """Every user, in the order of the data."""
        return list(self._number)

    def history(self, user: str) -> list[str]:
        """Item ids of a user, oldest first; refused where there is no such user, or no users at all."""
        if self._data is None:
            raise ApiError(422, "this model was served without its data, so it knows no users: send `history`.", "user")
        if user not in self._number:
            raise ApiError(422, "the run's data have no user of this id: send `history` instead.", "user")
        return [self._data.item_ids[item] for item in self._data.histories[self._number[user]]]

    def popular(self, catalogue: Catalogue) -> np.ndarray:
        """(items,) float64 users of each item of a catalogue, by item number; empty where there are no data."""
        if self._data is None:
            return np.zeros(0)
        users = users_of_items(self._data.before("valid"), self._data.n_items)
        counts = dict(zip(self._data.item_ids, users.tolist(), strict=True))
        return np.array([counts.get(item_id, 0) for item_id in catalogue.item_ids], np.float64)


class Constraints:
    """The columns of a catalogue's items. A cell may hold several values: a list, or a text with commas or bars."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Use the columns of a catalogue."""
        self._items = catalogue.items
        self.columns = [name for name in catalogue.items.column_names if name not in ("item_id", "title")]
        self._kept = lru_cache(maxsize=_KEPT)(self._set)
        self._values = lru_cache(maxsize=_COLUMNS)(self._index)
        self._numbers = lru_cache(maxsize=_COLUMNS)(self._parsed)

    def items(self, category: str | dict[str, str] | None, where: dict[str, ColumnConstraint]) -> ItemSet | None:
        """The items that meet all constraints; None where there are none, refused where a column or value is unknown.

        Args:
            category: a value of the usual column, or column → value.
            where: column → constraint.
        """
        if category == {}:
            raise ApiError(422, f"name a column and a value of it; there are {self._known()}.", "category")
        named = {self._usual(): category} if isinstance(category, str) else category or {}
        wanted = [("category", column, ColumnConstraint(any=[value])) for column, value in named.items()]
        wanted += [("where", column, constraint) for column, constraint in where.items()]
        if not wanted:
            return None
        return self._kept(
            tuple((field, column, _key(constraint)) for field, column, constraint in sorted(wanted, key=str))
        )

    def _usual(self) -> str:
        found = [name for name in _USUAL if name in self.columns]
        if not found:
            raise ApiError(422, f"say which column: {self._known()}.", "category")
        return found[0]

    def _set(self, wanted: tuple[tuple[str, str, Any], ...]) -> ItemSet:
        return ItemSet(np.logical_and.reduce([self._mask(*one) for one in wanted]))

    def _mask(self, field: str, column: str, key: tuple[Any, ...]) -> np.ndarray:
        """(items,) bool, which items meet one constraint."""
        if column not in self.columns:
            raise ApiError(422, f"items have no such column; there are {self._known()}.", field)
        any_of, none_of, low, high = key
        mask = np.ones(self._items.num_rows, bool)
        if any_of:
            mask &= self._holders(column, any_of)
            if not mask.any():
                raise ApiError(422, f"no item has this value in its column '{column}'.", field)
        if none_of:
            mask &= ~self._holders(column, none_of)
        if low is not None or high is not None:
            numbers = self._numbers(column)
            if np.isnan(numbers).all():
                raise ApiError(422, f"the column '{column}' holds no numbers: use `any` or `none`.", field)
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
            for value in {one.lower() for one in [*split_values(cell), *whole] if one}:
                found.setdefault(value, []).append(number)
        return found

    def _parsed(self, column: str) -> np.ndarray:
        """(items,) float64, NaN where a cell is no number."""
        return np.array([to_number(cell) for cell in self._items[column].to_pylist()], np.float64)

    def _known(self) -> str:
        return ", ".join(f"'{name}'" for name in self.columns) or "none"


def _key(constraint: ColumnConstraint) -> tuple[Any, ...]:
    values = (tuple(sorted(value.strip().lower() for value in listed)) for listed in (constraint.any, constraint.none))
    return (*values, constraint.min, constraint.max)


def page(catalogue: Catalogue, start: int, limit: int, words: str = "") -> ItemsResponse:
    """Some items in the order of the catalogue, of those whose title has all of some words in it, in any case."""
    wanted = words.lower().split()
    numbers: range | list[int] = range(len(catalogue.item_ids))
    if wanted:
        titles = (title.lower() for title in catalogue.titles)
        numbers = [at for at, title in enumerate(titles) if all(word in title for word in wanted)]
    chosen = list(numbers[start : start + limit])
    rows = catalogue.items.take(pa.array(chosen, pa.int64())).to_pylist()
    items = [
        CatalogueItem(
            item_id=catalogue.item_ids[at],
            title=catalogue.titles[at],
            code=catalogue.code_texts[at],
            columns={name: value for name, value in row.items() if name not in ("item_id", "title")},
        )
        for at, row in zip(chosen, rows, strict=True)
    ]
    return ItemsResponse(catalogue=catalogue.hash, total=len(numbers), start=start, items=items)
