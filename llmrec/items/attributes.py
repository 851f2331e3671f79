"""Attributes of items: the cells of a table's columns as values that a user can name, and as numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np


def values_of(cell: Any) -> list[str]:
    """The values of a cell: of a list, of a text with commas or bars, of the steps of a path."""
    if isinstance(cell, list):
        return [part for one in cell for part in values_of(one)]
    return [part.strip() for part in re.split(r"[,|]| > ", str(cell)) if part.strip()] if cell is not None else []


def number_of(cell: Any) -> float:
    """The number that a cell is, of a date its year; NaN for any other."""
    try:
        return float(str(cell)[:4] if re.match(r"\d{4}-\d", str(cell)) else cell)
    except (TypeError, ValueError):
        return np.nan
