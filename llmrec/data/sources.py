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
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec import embedded
from llmrec.data.tables import Rows, glob_free, read_table, refuse_many
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
    events, films = (_query(query, folder / f"ml-100k.{part}") for part in ("inter", "item"))
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
    interactions, items = (read_table(folder / f"{name}.parquet").table for name in ("interactions", "items"))
    return Raw(interactions, items, "position", {"source": data.source, "licence": "research use (McAuley)"})


def read_ml_latest_small(data: Data) -> Raw:
    """MovieLens latest-small from its own CSV files in $LLMREC_DATA."""
    folder = prepared_folder("ml-latest-small")
    query = """
        SELECT CAST(userId AS VARCHAR) user_id, CAST(movieId AS VARCHAR) item_id,
               CAST(timestamp AS BIGINT) AS timestamp, CAST(rating AS FLOAT) rating FROM read_csv($path)"""
    interactions = _query(query, folder / "ratings.csv")
    query = r"""
        SELECT CAST(movieId AS VARCHAR) item_id, trim(regexp_replace(title, '\((\d{4})\)\s*$', '')) title,
               nullif(regexp_extract(title, '\((\d{4})\)\s*$', 1), '') AS year,
               replace(genres, '|', ', ') genres FROM read_csv($path)"""
    items = _query(query, folder / "movies.csv")
    return Raw(
        interactions, items, "seconds", {"source": "MovieLens latest-small", "licence": "GroupLens, see its README.txt"}
    )


def read_files(data: Data) -> Raw:
    """Somebody's own files, columns mapped in the recipe.

    Raises:
        DataError: a column is missing (with the columns there are), or a row does not parse (file and line).
    """
    assert data.interactions and data.items
    events, items = read_table(Path(data.interactions)), read_table(Path(data.items))
    columns = data.columns
    key = columns.item_key or columns.item_id
    _require(events, _needed(data))
    _require(items, {"columns.item_key": key})
    interactions, unit, bad = _typed(events, data)
    ids = _as_text(items.table[key])
    nameless = pc.indices_nonzero(pc.is_null(ids)).to_pylist()
    bad += items.complaints + [f"{place}: {key} is missing" for place in items.places(nameless)]
    refuse_many(bad, data.max_bad_rows)
    rest = {name: items.table[name] for name in items.table.column_names if name not in (key, "item_id")}
    named = {"source": "files", "interactions": events.path.name, "items": items.path.name}
    catalogue = pa.table({"item_id": ids, **rest}).filter(pc.is_valid(ids))
    return Raw(interactions, catalogue, unit, named, bad)


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


def _require(rows: Rows, needed: dict[str, str]) -> None:
    for key, name in needed.items():
        if name not in rows.table.column_names:
            raise DataError(
                f"{rows.path.name} has no column '{name}'. It has: {', '.join(rows.table.column_names)}.\n"
                f"Say in the recipe which one it is: data.{key}=NAME"
                + (" (or data.columns.timestamp=null: file order is time order)" if key == "columns.timestamp" else "")
            )


def _typed(rows: Rows, data: Data) -> tuple[pa.Table, str, list[str]]:
    """Cast to our columns; rows that cannot be cast are left out and told."""
    events, columns = rows.table, data.columns
    table = {"user_id": _as_text(events[columns.user_id]), "item_id": _as_text(events[columns.item_id])}
    unit = "position"
    if columns.timestamp:
        table["timestamp"], unit = _as_seconds(events[columns.timestamp], rows.path, columns.timestamp), "seconds"
    else:
        table["timestamp"] = pa.chunked_array([pa.array(range(events.num_rows), pa.int64())])
    if columns.rating:
        table["rating"] = _try_cast(events[columns.rating], "FLOAT")
    why: dict[int, str] = {}
    for name, column in table.items():
        for record in pc.indices_nonzero(pc.is_null(column)).to_pylist():
            given = events[getattr(columns, name)][record].as_py()
            words = "is missing" if given is None or not str(given).strip() else f"'{given}' does not parse"
            why.setdefault(record, f"{getattr(columns, name)} {words}")
    bad = sorted(why)
    whole = np.ones(events.num_rows, bool)
    whole[bad] = False
    told = [f"{place}: {why[record]}" for record, place in zip(bad, rows.places(bad), strict=True)]
    return pa.table(table).filter(pa.array(whole)), unit, rows.complaints + told


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; empty text counts as missing."""
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _query(query: str, path: Path) -> pa.Table:
    found = duckdb.connect().sql(query, params={"path": glob_free(path)})
    assert found is not None  # a SELECT always gives a relation
    return found.to_arrow_table()


def _try_cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """A column as another kind of DuckDB's, null where a value cannot be cast."""
    # Without its extension for time zones, DuckDB takes times that name no zone as UTC, wherever the machine stands.
    db = duckdb.connect(config={"autoload_known_extensions": "false"})
    db.register("given", pa.table({"value": column}))
    return db.sql(f"SELECT TRY_CAST(value AS {kind}) AS value FROM given").to_arrow_table()["value"]


def _as_seconds(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    """Times as whole seconds since 1970, from seconds, milliseconds, microseconds, dates or ISO text.

    Raises:
        DataError: no time in the column can be read.
    """
    number = pa.chunked_array([pa.nulls(len(column), pa.float64())])
    if not pa.types.is_temporal(column.type):
        number = _try_cast(column, "DOUBLE")
        number = pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
    if number.null_count > len(number) // 2:
        moments = _try_cast(column, "TIMESTAMPTZ")
        if moments.null_count == len(moments):
            raise DataError(
                f"{file.name}: no value of '{name}' is a time (first: '{column[0].as_py()}'). Use numbers or ISO dates."
            )
        return pc.cast(pc.floor(pc.divide(pc.cast(pc.cast(moments, pa.int64()), pa.float64()), 1e6)), pa.int64())
    largest = pc.max(pc.abs(number)).as_py() or 0
    scale = 1 if largest < 1e11 else 1e3 if largest < 1e14 else 1e6
    return pc.cast(pc.floor(pc.divide(number, scale)), pa.int64())
