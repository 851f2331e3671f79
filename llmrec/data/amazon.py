"""Amazon Reviews as published: JSON lines of reviews and of item metadata of a category, plain or gzipped.

The three editions have different field names. Reviews are read into a DuckDB database that spills to disk. Metadata is
read line by line in Python, since the lines of 2014 are Python literals and not JSON.
"""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from llmrec.data import fetch
from llmrec.data.raw import BadRow, RawData, Scan, check_bad_rows, duckdb_connection, list_names, sql_paths
from llmrec.data.user_files import files
from llmrec.errors import DataError
from llmrec.recipe import Data

_TAG = re.compile(r"<[^>]{1,200}>")
_PRICE = re.compile(r"^\s*(?:from\s+)?\$?\s*([\d,]+(?:\.\d+)?)")


@dataclass(frozen=True)
class _Edition:
    """Field names of reviews and (from `key` on) of metadata, and file names in order of preference.

    Times are divided by `scale` to get seconds.
    """

    user: str
    item: str
    rating: str
    time: str
    review: str
    summary: str
    scale: int
    key: str
    brand: str
    category: str
    reviews: tuple[str, ...]
    items: tuple[str, ...]


_OLD = ("reviewerID", "asin", "overall", "unixReviewTime", "reviewText", "summary", 1, "asin", "brand")
EDITIONS = {
    "amazon-reviews-2014": _Edition(
        *_OLD, "categories", ("reviews_{}_5.json", "reviews_{}.json"), ("meta_{}.json",)
    ),
    "amazon-reviews-2018": _Edition(*_OLD, "category", ("{}.json", "{}_5.json"), ("meta_{}.json",)),
    "amazon-reviews-2023": _Edition(
        "user_id", "parent_asin", "rating", "timestamp", "text", "title", 1000, "parent_asin", "store", "categories",
        ("{}.jsonl",), ("meta_{}.jsonl",),
    ),
}  # fmt: skip


def paths(data: Data) -> tuple[list[Path], list[Path]]:
    """Return the files of reviews and of metadata.

    Raises:
        DataError: the recipe has neither files nor a category, or the files are not on this machine.
    """
    edition = EDITIONS[data.source]
    return (
        files(data.interactions) if data.interactions else [_find(data, edition.reviews)],
        files(data.items) if data.items else [_find(data, edition.items)],
    )


def read_amazon(data: Data) -> RawData:
    """Read the reviews and metadata of a recipe's files, or of its category in the data set's folder.

    Raises:
        DataError: a file is missing, truncated, or has more malformed lines than `data.max_bad_rows`.
    """
    edition = EDITIONS[data.source]
    logs, catalogues = paths(data)
    for path in (*logs, *catalogues):
        if not path.is_file():
            raise DataError(f"there is no file {path}. Paths in a recipe are relative to the recipe.")
    with ThreadPoolExecutor(1) as pool:  # DuckDB reads the reviews while Python reads the metadata
        reviews = pool.submit(_reviews, logs, edition)
        items, broken, contradicting = _metadata(catalogues, edition)
    scan, bad = reviews.result()
    check_bad_rows(bad + broken, data.max_bad_rows)
    origin = fetch.attribution(data.source) | {"files": list_names([*logs, *catalogues])}
    return RawData(scan, items, "seconds", origin, bad + broken + contradicting)


def _find(data: Data, names: tuple[str, ...]) -> Path:
    if not data.category:
        raise DataError(
            f"data.source: {data.source} needs data.category=NAME (such as Beauty), or the files themselves: "
            "data.interactions=FILE data.items=FILE"
        )
    folder = fetch.find_folder(data.source)
    tried = [f"{name.format(data.category)}{ending}" for name in names for ending in (".gz", "")]
    for name in tried:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} has none of {', '.join(tried)}. Fetch it: llmrec data fetch {data.source} --category {data.category}"
    )


def _reviews(logs: list[Path], edition: _Edition) -> tuple[Scan, list[BadRow]]:
    """Read the reviews into a database; also return those without an id, time or rating."""
    kinds = dict.fromkeys((edition.user, edition.item, edition.review, edition.summary), "VARCHAR")
    kinds |= {edition.rating: "DOUBLE", edition.time: "BIGINT"}
    columns = "{" + ", ".join(f"{name}: '{kind}'" for name, kind in kinds.items()) + "}"
    source = f"read_json({sql_paths(logs)}, format='newline_delimited', ignore_errors=true, columns={columns})"
    chosen = {
        "user_id": edition.user,
        "item_id": edition.item,
        "timestamp": f"{edition.time} // {edition.scale}",
        "rating": f"CAST({edition.rating} AS FLOAT)",
        "review": edition.review,
        "summary": edition.summary,
    }
    incomplete = "user_id IS NULL OR item_id IS NULL OR timestamp IS NULL OR rating IS NULL"
    selected = ", ".join(f"{field} AS {name}" for name, field in chosen.items())
    db = duckdb_connection()
    try:
        db.execute(f"CREATE TABLE raw AS SELECT {selected} FROM {source}")
    except duckdb.Error as error:
        raise DataError(f"{list_names(logs)} cannot be read: {str(error).splitlines()[0]}. Fetch it again.") from error
    broken = db.execute(f"DELETE FROM raw WHERE {incomplete}").fetchall()[0][0]
    needed = (edition.user, edition.item, edition.time, edition.rating)
    bad = [row for path in logs for row in _incomplete(path, needed)] if broken else []
    return Scan("SELECT * FROM raw", list(chosen), db), bad


def _incomplete(path: Path, needed: tuple[str, ...]) -> Iterator[BadRow]:
    for number, text in _lines(path):
        try:
            row = json.loads(text)
        except ValueError:
            yield BadRow("malformed", f"{path.name}, line {number}", "not JSON")
            continue
        missing = [name for name in needed if not isinstance(row, dict) or row.get(name) in (None, "")]
        if missing:
            yield BadRow("missing", f"{path.name}, line {number}", f"{missing[0]} is missing")


def _metadata(catalogues: list[Path], edition: _Edition) -> tuple[pa.Table, list[BadRow], list[BadRow]]:
    """Return the first row of each item, the lines that do not parse, and the rows that contradict an earlier one."""
    rows: dict[str, dict[str, Any]] = {}
    firsts: dict[str, str] = {}
    broken, contradicting = [], []
    for path in catalogues:
        for number, text in _lines(path):
            place = f"{path.name}, line {number}"
            try:
                row = _item(text, edition)
            except (ValueError, SyntaxError, KeyError, AttributeError, MemoryError, RecursionError):
                broken.append(BadRow("malformed", place, f"neither JSON nor a Python literal with '{edition.key}'"))
                continue
            key = row["item_id"]
            if key not in rows:
                rows[key], firsts[key] = row, place
            elif rows[key] != row:
                why = f"item '{key}' differs from its first row ({firsts[key]})"
                contradicting.append(BadRow("contradiction", place, why))
    kinds = [(name, pa.string()) for name in ("item_id", "title", "brand", "category", "description")]
    return (
        pa.Table.from_pylist(list(rows.values()), pa.schema([*kinds, ("price", pa.float64())])),
        broken,
        contradicting,
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from ((number, text) for number, text in enumerate(file, 1) if text.strip())
    except (OSError, EOFError) as error:
        raise DataError(f"{path.name} cannot be read: {error}. Fetch it again.") from error


def _item(text: str, edition: _Edition) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError:
        row = ast.literal_eval(text.strip())
    key = str(row[edition.key]).strip()
    if not key:
        raise KeyError(edition.key)
    path = row.get(edition.category) or []
    path = path[0] if path and isinstance(path[0], list) else path  # 2014 has several paths, the first is the main one
    return {
        "item_id": key,
        "title": _plain(row.get("title")),
        "brand": _plain(row.get(edition.brand)),
        "category": _plain(path if isinstance(path, str) else " > ".join(map(str, path))),
        "description": _plain(row.get("description")),
        "price": _price(row.get("price")),
    }


def _plain(value: Any) -> str | None:
    """Return text without HTML entities, tags and repeated blanks; lists are joined; None if nothing is left."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    text = html.unescape(text)
    return " ".join((_TAG.sub(" ", text) if "<" in text else text).split()) or None


def _price(value: Any) -> float | None:
    """Return the first number of a price; None for the HTML fragments that later editions have in this field."""
    match = _PRICE.match(str(value)) if value is not None else None
    return float(match[1].replace(",", "")) if match else None
