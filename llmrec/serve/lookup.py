"""Data of requests: histories of users, items by the values of their columns, and items page by page."""

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
from llmrec.items.item_text import split_values, to_number
from llmrec.serve.schemas import ApiError, ColumnConstraint, ItemsResponse, ListedItem

_CATEGORY_COLUMNS = ("category", "categories", "genre", "genres", "kind", "brand", "type")
_CACHED_SETS = 64  # item sets of constraints
_CACHED_COLUMNS = 8  # indexes of columns


class Users:
    """Histories of the run's users, by user id; an export has none."""

    def __init__(self, folder: Path | None) -> None:
        """Load the interactions in a run's `data/`; None for no users."""
        self._data = Dataset.load(folder, texts=False) if folder else None
        self._number = {user: number for number, user in enumerate(self._data.user_ids)} if self._data else {}

    def __len__(self) -> int:
        return len(self._number)

    @property
    def ids(self) -> list[str]:
        """All users, in the order of the data."""
        return list(self._number)

    def history(self, user: str) -> list[str]:
        """Item ids of a user, oldest first; an ApiError if the user is unknown."""
        if self._data is None:
            raise ApiError(
                422, "the server has the model without its data, so it knows no users: send `history`.", "user"
            )
        if user not in self._number:
            raise ApiError(422, "the run's data have no user of this id: send `history` instead.", "user")
        return [self._data.item_ids[item] for item in self._data.histories[self._number[user]]]

    def item_popularity(self, catalogue: Catalogue) -> np.ndarray:
        """(items,) float64 number of users of each item of a catalogue; empty without data."""
        if self._data is None:
            return np.zeros(0)
        users = users_of_items(self._data.before("valid"), self._data.n_items)
        counts = dict(zip(self._data.item_ids, users.tolist(), strict=True))
        return np.array([counts.get(item_id, 0) for item_id in catalogue.item_ids], np.float64)


class ColumnIndex:
    """Index of the columns of a catalogue. A cell may have several values: a list, or a text with commas or bars."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Index a catalogue, each column on its first use."""
        self._items = catalogue.items
        self.columns = [name for name in catalogue.items.column_names if name not in ("item_id", "title")]
        self._item_set = lru_cache(maxsize=_CACHED_SETS)(self._compute_set)
        self._value_index = lru_cache(maxsize=_CACHED_COLUMNS)(self._compute_value_index)
        self._numbers = lru_cache(maxsize=_CACHED_COLUMNS)(self._compute_numbers)

    def items(self, category: str | dict[str, str] | None, where: dict[str, ColumnConstraint]) -> ItemSet | None:
        """Items that meet all constraints, None without constraints; an ApiError for an unknown column or value.

        Args:
            category: a value of the category column, or column → value.
            where: column → constraint.
        """
        if category == {}:
            raise ApiError(422, f"name a column and a value of it; the columns are {self._column_list()}.", "category")
        values = {self._category_column(): category} if isinstance(category, str) else category or {}
        constraints = [("category", column, ColumnConstraint(any=[value])) for column, value in values.items()]
        constraints += [("where", column, constraint) for column, constraint in where.items()]
        if not constraints:
            return None
        return self._item_set(
            tuple((field, column, _key(constraint)) for field, column, constraint in sorted(constraints, key=str))
        )

    def _category_column(self) -> str:
        columns = [name for name in _CATEGORY_COLUMNS if name in self.columns]
        if not columns:
            raise ApiError(422, f"name a column: {self._column_list()}.", "category")
        return columns[0]

    def _compute_set(self, constraints: tuple[tuple[str, str, Any], ...]) -> ItemSet:
        return ItemSet(np.logical_and.reduce([self._mask(*constraint) for constraint in constraints]))

    def _mask(self, field: str, column: str, key: tuple[Any, ...]) -> np.ndarray:
        """(items,) bool, which items meet one constraint."""
        if column not in self.columns:
            raise ApiError(422, f"items have no such column; there are {self._column_list()}.", field)
        any_of, none_of, low, high = key
        mask = np.ones(self._items.num_rows, bool)
        if any_of:
            mask &= self._items_with(column, any_of)
            if not mask.any():
                raise ApiError(422, f"no item has this value in its column '{column}'.", field)
        if none_of:
            mask &= ~self._items_with(column, none_of)
        if low is not None or high is not None:
            numbers = self._numbers(column)
            if np.isnan(numbers).all():
                raise ApiError(422, f"the column '{column}' holds no numbers: use `any` or `none`.", field)
            mask &= (numbers >= (-np.inf if low is None else low)) & (numbers <= (np.inf if high is None else high))
        return mask

    def _items_with(self, column: str, values: tuple[str, ...]) -> np.ndarray:
        mask = np.zeros(self._items.num_rows, bool)
        for value in values:
            mask[self._value_index(column).get(value, [])] = True
        return mask

    def _compute_value_index(self, column: str) -> dict[str, list[int]]:
        """Value in lower case → item numbers; a whole cell is also a value."""
        index: dict[str, list[int]] = {}
        for number, cell in enumerate(self._items[column].to_pylist()):
            whole = [] if cell is None or isinstance(cell, list) else [str(cell).strip()]
            for value in {each.lower() for each in [*split_values(cell), *whole] if each}:
                index.setdefault(value, []).append(number)
        return index

    def _compute_numbers(self, column: str) -> np.ndarray:
        """(items,) float64, NaN for a cell that is not a number."""
        return np.array([to_number(cell) for cell in self._items[column].to_pylist()], np.float64)

    def _column_list(self) -> str:
        return ", ".join(f"'{name}'" for name in self.columns) or "none"


def _key(constraint: ColumnConstraint) -> tuple[Any, ...]:
    values = (tuple(sorted(value.strip().lower() for value in listed)) for listed in (constraint.any, constraint.none))
    return (*values, constraint.min, constraint.max)


def items_page(catalogue: Catalogue, start: int, limit: int, query: str = "") -> ItemsResponse:
    """A page of the items whose title contains all words of a query, ignoring case, in the order of the catalogue."""
    words = query.lower().split()
    numbers: range | list[int] = range(len(catalogue.item_ids))
    if words:
        titles = (title.lower() for title in catalogue.titles)
        numbers = [number for number, title in enumerate(titles) if all(word in title for word in words)]
    selected = list(numbers[start : start + limit])
    rows = catalogue.items.take(pa.array(selected, pa.int64())).to_pylist()
    items = [
        ListedItem(
            item_id=catalogue.item_ids[number],
            title=catalogue.titles[number],
            code=catalogue.code_texts[number],
            columns={name: value for name, value in row.items() if name not in ("item_id", "title")},
        )
        for number, row in zip(selected, rows, strict=True)
    ]
    return ItemsResponse(catalogue=catalogue.hash, total=len(numbers), start=start, items=items)
