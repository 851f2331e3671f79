"""Text and attributes of items, from the columns of the items table."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.errors import DataError

_MAX_CHARACTERS = 512  # of one field


def item_texts(items: pa.Table, fields: list[str], missing: str = "refuse") -> list[str]:
    """One line of text for each item: the first field as it is, each further one after its name.

    Args:
        items: the items table.
        fields: columns to use, in order.
        missing: "refuse" items without text, or use their "item-id".

    Raises:
        DataError: a column is missing, or items have no text (which).
    """
    unknown = [name for name in fields if name not in items.column_names]
    if unknown:
        raise DataError(
            f"items.text names the column(s) {', '.join(unknown)}, but items have: {', '.join(items.column_names)}."
        )
    labels = ["", *(f"{name}: " for name in fields[1:])]
    columns = [[plain_text(value) for value in items[name].to_pylist()] for name in fields]
    texts = [
        "; ".join(label + value for label, value in zip(labels, row, strict=True) if value)
        for row in zip(*columns, strict=True)
    ]
    item_ids = items["item_id"].to_pylist()
    empty = [item_id for item_id, text in zip(item_ids, texts, strict=True) if not text]
    if empty and missing == "refuse":
        shown = ", ".join(empty[:5]) + ("…" if len(empty) > 5 else "")
        raise DataError(
            f"{len(empty)} item(s) have no text in {', '.join(fields)}: {shown}\n"
            "Add text to the items file, or use the ids as text with items.missing_text=item-id"
        )
    return [text or item_id for text, item_id in zip(texts, item_ids, strict=True)]


def item_titles(items: pa.Table) -> list[str]:
    """The `title` of each item, otherwise its id."""
    named = items["title"].to_pylist() if "title" in items.column_names else [None] * items.num_rows
    return [plain_text(name) or item_id for name, item_id in zip(named, items["item_id"].to_pylist(), strict=True)]


def plain_text(value: object) -> str:
    """A value as one line of at most 512 characters, without control characters and line breaks."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = ", ".join(str(part) for part in value)
    text = unicodedata.normalize("NFC", str(value)[: 4 * _MAX_CHARACTERS])
    printable = "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
    return re.sub(r"\s+", " ", printable).strip()[:_MAX_CHARACTERS]


def split_values(cell: Any) -> list[str]:
    """Split a cell into values: the members of a list, the parts of a text with commas or bars, the steps of a path."""
    if isinstance(cell, list):
        return [value for member in cell for value in split_values(member)]
    return [part.strip() for part in re.split(r"[,|]| > ", str(cell)) if part.strip()] if cell is not None else []


def to_number(cell: Any) -> float:
    """A cell as a number, a date as its year; NaN for other texts."""
    try:
        return float(str(cell)[:4] if re.match(r"\d{4}-\d", str(cell)) else cell)
    except (TypeError, ValueError):
        return np.nan
