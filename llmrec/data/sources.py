"""Where data come from: the embedded MovieLens, folders of prepared sets, or somebody's own files.

Every source returns the same two tables and what it knows about itself; nothing is cleaned or split here.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec import embedded
from llmrec.data.raw import Raw
from llmrec.data.tables import Rows, glob_free, read_table, refuse_many
from llmrec.data.times import read_times, try_cast
from llmrec.data.world_words import read_world
from llmrec.errors import DataError
from llmrec.recipe import Columns, Data


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


def read_files(data: Data, quiet: bool = False) -> Raw:
    """Somebody's own files, columns mapped in the recipe.

    Raises:
        DataError: a column is missing (with the columns there are), or a row does not parse (file and line).
    """
    assert data.interactions and data.items
    events, items = (read_table(Path(name), data.delimiter, data.encoding) for name in (data.interactions, data.items))
    for note in [] if quiet else events.dialect.notes + items.dialect.notes:
        warnings.warn(note, stacklevel=2)
    columns = data.columns
    _require(events, _needed(data))
    interactions, unit, bad = _typed(events, data)
    catalogue, bad_items = _catalogue(items, columns)
    refuse_many(bad + bad_items, data.max_bad_rows)
    named = {"source": "files", "interactions": events.path.name, "items": items.path.name}
    return Raw(interactions, catalogue, unit, named, bad + bad_items)


def _catalogue(rows: Rows, columns: Columns) -> tuple[pa.Table, list[str]]:
    """The items by our names; rows without an id, or against an earlier row of the same item, are left out and told."""
    key = columns.item_key or columns.item_id
    _require(rows, {"columns.item_key": key} | ({"columns.title": columns.title} if columns.title else {}))
    ids = as_text(rows.table[key])
    chosen = {"title": rows.table[columns.title]} if columns.title else {}
    rest = [name for name in rows.table.column_names if name not in (key, "item_id", columns.title)]
    items = pa.table({"item_id": ids, **{name: rows.table[name] for name in rest}, **chosen})
    why = dict.fromkeys(pc.indices_nonzero(pc.is_null(ids)).to_pylist(), f"{key} is missing")
    against = _contradictions(items)
    firsts = sorted(set(against.values()))
    places = dict(zip(firsts, rows.places(firsts), strict=True))
    for record, first in against.items():
        why[record] = f"item '{ids[record]}' has other values than in its first row ({places[first]})"
    return _without(items, rows, why)


def _contradictions(items: pa.Table) -> dict[int, int]:
    """Rows that say something else of an item than the first row with its id: row number → that first row's."""
    others = [f"c{place}" for place in range(1, items.num_columns)]
    if not others:
        return {}
    db = duckdb.connect()
    rows = pa.array(range(items.num_rows), pa.int64())
    db.register("items", items.rename_columns(["item_id", *others]).append_column("place", rows))
    found = db.sql(
        f"""SELECT place, first FROM (
               SELECT place, row({", ".join(others)}) AS said, first_value(place) OVER w AS first,
                      first_value(row({", ".join(others)})) OVER w AS said_first
               FROM items WHERE item_id IS NOT NULL WINDOW w AS (PARTITION BY item_id ORDER BY place))
            WHERE said IS DISTINCT FROM said_first ORDER BY place"""
    )
    return dict(found.fetchall())


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
    "world": lambda data: read_world(data.world),
}


def where() -> list[tuple[str, bool, str]]:
    """Every source by name: whether it is here, and where it is or how to get it."""
    found = []
    for name in SOURCES:
        if name == "ml-100k":
            here = embedded.is_fetched(name)
            found.append((name, here, str(embedded.cache_folder() / name) if here else "get it with: llmrec setup"))
        elif name == "files":
            found.append((name, True, "your own: llmrec init FILES"))
        elif name == "world":
            found.append((name, True, "generated, its truth known: data.world"))
        else:
            folder = Path(os.environ.get("LLMREC_DATA", "")) / name
            here = "LLMREC_DATA" in os.environ and folder.is_dir()
            found.append((name, here, str(folder) if here else f"read from $LLMREC_DATA/{name}"))
    return found


def _needed(data: Data) -> dict[str, str]:
    columns = data.columns
    named = {"columns.user_id": columns.user_id, "columns.item_id": columns.item_id}
    optional = {
        f"columns.{key}": getattr(columns, key) for key in ("timestamp", "rating", "review", "summary", "split")
    }
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
    table = {"user_id": as_text(events[columns.user_id]), "item_id": as_text(events[columns.item_id])}
    unit = "position"
    if columns.timestamp:
        times = read_times(events[columns.timestamp], rows.path.name, columns.timestamp, data.day_first)
        table["timestamp"], unit = times.seconds, "seconds"
    else:
        table["timestamp"] = pa.chunked_array([pa.array(range(events.num_rows), pa.int64())])
    if columns.rating:
        table["rating"] = try_cast(events[columns.rating], "FLOAT")
    why: dict[int, str] = {}
    for name, column in table.items():
        for record in pc.indices_nonzero(pc.is_null(column)).to_pylist():
            given = events[getattr(columns, name)][record].as_py()
            words = "is missing" if given is None or not str(given).strip() else f"'{given}' does not parse"
            why.setdefault(record, f"{getattr(columns, name)} {words}")
    table |= {name: as_text(events[theirs]) for name, theirs in _words(columns).items()}
    whole, told = _without(pa.table(table), rows, why)
    return whole, unit, told


def _words(columns: Columns) -> dict[str, str]:
    """Columns of text that may be empty: our name → theirs."""
    named = {"review": columns.review, "summary": columns.summary, "part": columns.split}
    return {ours: theirs for ours, theirs in named.items() if theirs}


def _without(table: pa.Table, rows: Rows, why: dict[int, str]) -> tuple[pa.Table, list[str]]:
    """A table without some rows, and what to tell: those and the rows that were never read."""
    bad = sorted(why)
    whole = np.ones(table.num_rows, bool)
    whole[bad] = False
    told = [f"{place}: {why[record]}" for record, place in zip(bad, rows.places(bad), strict=True)]
    return table.filter(pa.array(whole)), rows.complaints + told


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; empty text counts as missing."""
    if pa.types.is_floating(column.type):
        # pandas makes whole numbers floats where one is missing: 123456789012 must not become 1.23456789012e+11.
        with contextlib.suppress(pa.ArrowInvalid):
            column = pc.cast(column, pa.int64())
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _query(query: str, path: Path) -> pa.Table:
    found = duckdb.connect().sql(query, params={"path": glob_free(path)})
    assert found is not None  # a SELECT always gives a relation
    return found.to_arrow_table()
