"""Texts of items and the vectors of these texts: the stage `items`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.checked import REMEDY, read_array, read_checked
from llmrec.errors import RunError
from llmrec.files import write_json
from llmrec.items.item_text import item_texts
from llmrec.items.item_vectors import Progress, encode
from llmrec.recipe import ItemText

_TEXTS, _VECTORS = "texts.json", "vectors.npy"


def write_items(settings: ItemText, items: pa.Table, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the text and the vector of every item; return facts for made.json.

    Raises:
        DataError: an item without text, or without a usable vector.
    """
    texts = item_texts(items, settings.text, settings.missing_text)
    vectors = encode(texts, settings.encoder, progress)
    np.save(folder / _VECTORS, vectors)
    write_json(folder / _TEXTS, texts)
    return {"items": len(texts), "dimensions": vectors.shape[1], "encoder": settings.encoder, "example": texts[0]}


def read_texts(folder: Path, items: int | None = None) -> list[str]:
    """Read the text of each item; `items` is their expected number, None for any.

    Raises:
        RunError: the file is missing, damaged, or has another number of items.
    """
    texts: list[str] = read_checked(folder / _TEXTS, list[str])
    _check_count(folder / _TEXTS, len(texts), items)
    return texts


def read_vectors(folder: Path, items: int | None = None) -> np.ndarray:
    """Read the vectors of the texts, (items, dim) float32 of length 1; arguments and errors as of `read_texts`."""
    vectors = read_array(folder / _VECTORS, 2)
    _check_count(folder / _VECTORS, len(vectors), items)
    return vectors


def _check_count(path: Path, count: int, items: int | None) -> None:
    if items is not None and count != items:
        raise RunError(f"{path} is of {count} items, but the data have {items}. {REMEDY}")
