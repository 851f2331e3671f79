"""Where data come from: the embedded MovieLens, folders of prepared sets, or somebody's own files.

Every source returns the same two tables and what it knows about itself; nothing is cleaned or split here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from llmrec import embedded
from llmrec.data.tables import line_of_record, read_table, refuse_many
from llmrec.errors import DataError
from llmrec.recipe import Data


@dataclass
class Raw:
    """What a source gives.

    Attributes:
        interactions: user_id, item_id: string; timestamp: int64; rating: float32 where there is one.
        items: item_id: string, title and other columns.
        unit: of `timestamp`: "seconds", or "position" in the user's history.
        origin: name, licence, files.
        dropped: one line of words for each row that did not parse.
    """

    interactions: pa.Table
    items: pa.Table
    unit: str
    origin: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def read(data: Data) -> Raw:
    """Read the source that a recipe names.

    Raises:
        DataError: files missing, malformed, or without the columns needed.
    """
    return SOURCES[data.source](data)


def read_ml_100k(data: Data) -> Raw:
    """MovieLens 100K as carried by the package that `llmrec setup` fetches."""
    folder = embedded.path("ml-100k")
    query = "SELECT * FROM read_csv($path, delim='\t', header=true, all_varchar=true, quote='')"
    events, films = (
        duckdb.sql(query, params={"path": str(folder / f"ml-100k.{part}")}).to_arrow_table()
        for part in ("inter", "item")
    )
    interactions = pa.table(
        {
            "user_id": events["user_id:token"],
            "item_id": events["item_id:token"],
            "timestamp": pc.cast(pc.cast(events["timestamp:float"], pa.float64()), pa.int64()),
            "rating": pc.cast(events["rating:float"], pa.float32()),
        }
    )
    items = pa.table(
        {
            "item_id": films["item_id:token"],
            "title": films["movie_title:token_seq"],
            "year": films["release_year:token"],
            "genres": pc.replace_substring(films["class:token_seq"], " ", ", "),
        }
    )
    licence = embedded.ARCHIVES["ml-100k"].licence
    return Raw(interactions, items, "seconds", {"source": "MovieLens 100K", "licence": licence})


def read_prepared(data: Data) -> Raw:
    """A folder of $LLMREC_DATA that holds interactions.parquet and items.parquet (the Amazon sets)."""
    folder = prepared_folder(data.source)
    interactions, _ = read_table(folder / "interactions.parquet")
    items, _ = read_table(folder / "items.parquet")
    return Raw(interactions, items, "position", {"source": data.source, "licence": "research use (McAuley)"})


def read_ml_latest_small(data: Data) -> Raw:
    """MovieLens latest-small from its own CSV files in $LLMREC_DATA."""
    folder = prepared_folder("ml-latest-small")
    query = """
        SELECT CAST(userId AS VARCHAR) user_id, CAST(movieId AS VARCHAR) item_id,
               CAST(timestamp AS BIGINT) AS timestamp, CAST(rating AS FLOAT) rating FROM read_csv($path)"""
    interactions = duckdb.sql(query, params={"path": str(folder / "ratings.csv")}).to_arrow_table()
    query = r"""
        SELECT CAST(movieId AS VARCHAR) item_id, trim(regexp_replace(title, '\((\d{4})\)\s*$', '')) title,
               nullif(regexp_extract(title, '\((\d{4})\)\s*$', 1), '') AS year,
               replace(genres, '|', ', ') genres FROM read_csv($path)"""
    items = duckdb.sql(query, params={"path": str(folder / "movies.csv")}).to_arrow_table()
    return Raw(
        interactions, items, "seconds", {"source": "MovieLens latest-small", "licence": "GroupLens, see its README.txt"}
    )


def read_files(data: Data) -> Raw:
    """Somebody's own files, columns mapped in the recipe.

    Raises:
        DataError: a column is missing (with the columns there are), or a row does not parse (file and line).
    """
    assert data.interactions and data.items
    events_file, items_file = Path(data.interactions), Path(data.items)
    events, bad_events = read_table(events_file, data.max_bad_rows)
    items, bad_items = read_table(items_file, data.max_bad_rows)
    columns = data.columns
    key = columns.item_key or columns.item_id
    for file, table, needed in ((events_file, events, _needed(data)), (items_file, items, {"columns.item_key": key})):
        _require(file, table, needed)
    chosen, unit, bad = _typed(events, data, events_file)
    refuse_many(bad_events + bad_items + bad, data.max_bad_rows)
    ids = _as_text(items[key])
    rest = {name: items[name] for name in items.column_names if name not in (key, "item_id")}
    named = {"source": "files", "interactions": events_file.name, "items": items_file.name}
    return Raw(chosen, pa.table({"item_id": ids, **rest}), unit, named, bad_events + bad_items + bad)


def prepared_folder(name: str) -> Path:
    """The folder of a prepared data set: $LLMREC_DATA/NAME.

    Raises:
        DataError: it is not there.
    """
    root = os.environ.get("LLMREC_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    where = f"{root} has no folder {name}" if root else "the variable LLMREC_DATA is not set"
    raise DataError(
        f"data.source: {name} is read from $LLMREC_DATA/{name}, but {where}. Set it: export LLMREC_DATA=FOLDER"
    )


SOURCES: dict[str, Callable[[Data], Raw]] = {
    "ml-100k": read_ml_100k,
    "ml-latest-small": read_ml_latest_small,
    "amazon-beauty-2014": read_prepared,
    "amazon-games-2018": read_prepared,
    "files": read_files,
}


def _needed(data: Data) -> dict[str, str]:
    columns = data.columns
    named = {"columns.user_id": columns.user_id, "columns.item_id": columns.item_id}
    optional = {"columns.timestamp": columns.timestamp, "columns.rating": columns.rating}
    return named | {key: name for key, name in optional.items() if name}


def _require(file: Path, table: pa.Table, needed: dict[str, str]) -> None:
    for key, name in needed.items():
        if name not in table.column_names:
            raise DataError(
                f"{file.name} has no column '{name}'. It has: {', '.join(table.column_names)}.\n"
                f"Say in the recipe which one it is: data.{key}=NAME"
                + (" (or data.columns.timestamp=null: file order is time order)" if key == "columns.timestamp" else "")
            )


def _typed(events: pa.Table, data: Data, file: Path) -> tuple[pa.Table, str, list[str]]:
    """Cast to our columns; rows that cannot be cast are left out and told."""
    columns = data.columns
    table = {"user_id": _as_text(events[columns.user_id]), "item_id": _as_text(events[columns.item_id])}
    bad_why = {"user_id": pc.is_null(table["user_id"]), "item_id": pc.is_null(table["item_id"])}
    unit = "position"
    if columns.timestamp:
        table["timestamp"], unit = _as_seconds(events[columns.timestamp], file, columns.timestamp), "seconds"
        bad_why["timestamp"] = pc.is_null(table["timestamp"])
    else:
        table["timestamp"] = pa.chunked_array([pa.array(range(events.num_rows), pa.int64())])
    if columns.rating:
        table["rating"] = _try_cast(events[columns.rating], "FLOAT")
        bad_why["rating"] = pc.is_null(table["rating"])
    anything = pa.array([False] * events.num_rows)
    bad = []
    for name, flags in bad_why.items():
        given = events[getattr(columns, name)]
        for record in pc.indices_nonzero(flags).to_pylist()[:1000]:
            bad.append(
                f"{file.name}, line {line_of_record(file, record)}: {name} '{given[record].as_py()}' does not parse"
            )
        anything = pc.or_(anything, flags)
    return pa.table(table).filter(pc.invert(anything)), unit, bad


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; empty text counts as missing."""
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _try_cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    values = pa.table({"value": column})  # noqa: F841 - DuckDB reads the variable by its name
    return duckdb.sql(f"SELECT TRY_CAST(value AS {kind}) AS cast FROM values").to_arrow_table()["cast"]


def _as_seconds(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    """Times as whole seconds since 1970, from seconds, milliseconds, microseconds, dates or ISO text.

    Raises:
        DataError: no time in the column can be read.
    """
    if pa.types.is_temporal(column.type):
        return pc.cast(pc.divide(pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64()), 1_000_000), pa.int64())
    number = _try_cast(column, "DOUBLE")
    if number.null_count > len(number) // 2:
        moments = _try_cast(column, "TIMESTAMP")
        if moments.null_count == len(moments):
            raise DataError(
                f"{file.name}: no value of '{name}' is a time (first: '{column[0].as_py()}'). Use numbers or ISO dates."
            )
        return pc.cast(pc.divide(pc.cast(moments, pa.int64()), 1_000_000), pa.int64())
    largest = pc.max(pc.abs(number)).as_py() or 0
    scale = 1 if largest < 1e11 else 1e3 if largest < 1e14 else 1e6
    return pc.cast(pc.floor(pc.divide(number, scale)), pa.int64())
