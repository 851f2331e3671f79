"""Somebody's own files as a source: columns mapped in the recipe, one file or several, in memory or streamed."""

from __future__ import annotations

import contextlib
import glob
import warnings
from collections.abc import Iterable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.data.raw import BadKind, BadRow, Raw, Scan
from llmrec.data.tables import Rows, glob_free, kind_of, read_table, refuse_many
from llmrec.data.times import read_times, try_cast
from llmrec.errors import DataError
from llmrec.recipe import Columns, Data

STREAMED = 5_000_000
"""Parquet rows from which on a log stays in its files while it is cleaned."""


def files(pattern: str) -> list[Path]:
    """The files that a name in a recipe means, in order of their names: one, or those that a pattern with * matches.

    Raises:
        DataError: the pattern matches nothing.
    """
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not found:
        raise DataError(f"no file matches {pattern}. Paths in a recipe are relative to the recipe.")
    return found


def paths(data: Data) -> tuple[list[Path], list[Path]]:
    """The files of interactions and of items that a recipe names.

    Raises:
        DataError: a pattern matches nothing.
    """
    assert data.interactions and data.items
    return files(data.interactions), files(data.items)


def read_files(data: Data, quiet: bool = False) -> Raw:
    """Somebody's own files, columns mapped in the recipe.

    Raises:
        DataError: a column is missing (with the columns there are), or a row does not parse (file and line).
    """
    logs, catalogues = paths(data)
    items = [read_table(path, data.delimiter, data.encoding) for path in catalogues]
    streamed = _streamed(logs, data)
    events = [] if streamed else [read_table(path, data.delimiter, data.encoding) for path in logs]
    for note in [] if quiet else [note for rows in events + items for note in rows.dialect.notes]:
        warnings.warn(note, stacklevel=2)
    interactions, unit, bad = streamed or _together(events, data)
    read = [_catalogue(rows, data.columns) for rows in items]
    dropped = bad + [row for _, rows in read for row in rows]
    refuse_many(dropped, data.max_bad_rows)
    named = {"source": "files", "files": f"{_names(logs)}; {_names(catalogues)}"}
    return Raw(interactions, _one([table for table, _ in read]), unit, named, dropped)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _one(tables: list[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def _together(events: list[Rows], data: Data) -> tuple[pa.Table, str, list[BadRow]]:
    """Several files as one log; without times, the files follow one another in order of their names."""
    parts: list[pa.Table] = []
    dropped: list[BadRow] = []
    before, unit = 0, "position"
    for rows in events:
        _require(rows, _needed(data))
        table, unit, bad = _typed(rows, data, before)
        parts, dropped, before = [*parts, table], dropped + bad, before + rows.table.num_rows
    return _one(parts), unit, dropped


def _streamed(logs: list[Path], data: Data) -> tuple[Scan, str, list[BadRow]] | None:
    """A large Parquet log of plain columns as a query; None where it is better read into memory.

    Raises:
        DataError: a column is missing.
    """
    if any(kind_of(path) != ".parquet" or not path.is_file() for path in logs):
        return None
    try:
        opened = [pq.ParquetFile(path) for path in logs]
    except (pa.ArrowException, OSError):
        return None  # it cannot be read, or is no Parquet: `read_table` says so
    if sum(file.metadata.num_rows for file in opened) < STREAMED:
        return None
    schema, columns = opened[0].schema_arrow, data.columns
    _require_names(logs[0].name, schema.names, _needed(data))
    numbers = [name for name in (columns.timestamp, columns.rating) if name]
    ids = [schema.field(name).type for name in (columns.user_id, columns.item_id)]
    plain = all(pa.types.is_string(kind) or pa.types.is_integer(kind) for kind in ids)
    if not (columns.timestamp and plain and all(_is_number(schema.field(name).type) for name in numbers)):
        return None
    return _scan(logs, data)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _scan(logs: list[Path], data: Data) -> tuple[Scan, str, list[BadRow]]:
    paths = "[" + ", ".join("'" + glob_free(path).replace("'", "''") + "'" for path in logs) + "]"
    source = f"read_parquet({paths}, filename=true, file_row_number=true)"
    columns = data.columns
    user, item = (f"nullif(trim(CAST({_quoted(name)} AS VARCHAR)), '')" for name in (columns.user_id, columns.item_id))
    time = _quoted(columns.timestamp or "")
    db = duckdb.connect()
    largest = db.execute(f"SELECT max(abs({time})) FROM {source} WHERE isfinite({time}::DOUBLE)").fetchall()[0][0] or 0
    scale = 1 if largest < 1e11 else 1_000 if largest < 1e14 else 1_000_000  # seconds, milli- or microseconds
    chosen = {"user_id": user, "item_id": item, "timestamp": f"CAST(floor({time} / {scale}) AS BIGINT)"}
    if columns.rating:
        chosen["rating"] = f"CAST({_quoted(columns.rating)} AS FLOAT)"
    chosen |= {
        name: f"nullif(trim(CAST({_quoted(theirs)} AS VARCHAR)), '')" for name, theirs in _words(columns).items()
    }
    needed = [chosen[name] for name in ("user_id", "item_id", "timestamp", "rating") if name in chosen]
    whole = " AND ".join(f"{expression} IS NOT NULL" for expression in needed)
    bad = db.execute(f"SELECT filename, file_row_number FROM {source} WHERE NOT ({whole}) ORDER BY 1, 2").fetchall()
    why = "an id, the time or the rating is missing"
    dropped = [BadRow("missing", f"{Path(name).name}, row {row + 1}", why) for name, row in bad]
    selected = ", ".join(f"{expression} AS {name}" for name, expression in chosen.items())
    return Scan(f"SELECT {selected} FROM {source} WHERE {whole}", list(chosen)), "seconds", dropped


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _catalogue(rows: Rows, columns: Columns) -> tuple[pa.Table, list[BadRow]]:
    """The items by our names, and the rows left out: those without an id, or against an earlier row of their item."""
    key = columns.item_key or columns.item_id
    _require(rows, {"columns.item_key": key} | ({"columns.title": columns.title} if columns.title else {}))
    ids = as_text(rows.table[key])
    chosen = {"title": rows.table[columns.title]} if columns.title else {}
    rest = [name for name in rows.table.column_names if name not in (key, "item_id", columns.title)]
    items = pa.table({"item_id": ids, **{name: rows.table[name] for name in rest}, **chosen})
    missing: tuple[BadKind, str] = ("missing", f"{key} is missing")
    why = dict.fromkeys(pc.indices_nonzero(pc.is_null(ids)).to_pylist(), missing)
    against = _contradictions(items)
    firsts = sorted(set(against.values()))
    places = dict(zip(firsts, rows.places(firsts), strict=True))
    for record, first in against.items():
        against_first = f"item '{ids[record]}' has other values than in its first row ({places[first]})"
        why[record] = ("contradiction", against_first)
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


def _needed(data: Data) -> dict[str, str]:
    columns = data.columns
    named = {"columns.user_id": columns.user_id, "columns.item_id": columns.item_id}
    optional = {
        f"columns.{key}": getattr(columns, key) for key in ("timestamp", "rating", "review", "summary", "split")
    }
    return named | {key: name for key, name in optional.items() if name}


def _require(rows: Rows, needed: dict[str, str]) -> None:
    _require_names(rows.path.name, rows.table.column_names, needed)


def _require_names(file: str, there: Iterable[str], needed: dict[str, str]) -> None:
    for key, name in needed.items():
        if name not in there:
            raise DataError(
                f"{file} has no column '{name}'. It has: {', '.join(there)}.\n"
                f"Say in the recipe which one it is: data.{key}=NAME"
                + (" (or data.columns.timestamp=null: file order is time order)" if key == "columns.timestamp" else "")
            )


def _typed(rows: Rows, data: Data, before: int = 0) -> tuple[pa.Table, str, list[BadRow]]:
    """Cast to our columns; rows that cannot be cast are left out. `before` rows of other files come first."""
    events, columns = rows.table, data.columns
    table = {"user_id": as_text(events[columns.user_id]), "item_id": as_text(events[columns.item_id])}
    unit = "position"
    if columns.timestamp:
        times = read_times(events[columns.timestamp], rows.path.name, columns.timestamp, data.day_first)
        table["timestamp"], unit = times.seconds, "seconds"
    else:
        table["timestamp"] = pa.chunked_array([pa.array(range(before, before + events.num_rows), pa.int64())])
    if columns.rating:
        table["rating"] = try_cast(events[columns.rating], "FLOAT")
    why: dict[int, tuple[BadKind, str]] = {}
    for name, column in table.items():
        for record in pc.indices_nonzero(pc.is_null(column)).to_pylist():
            theirs = getattr(columns, name)
            given = events[theirs][record].as_py()
            empty = given is None or not str(given).strip()
            unparsed: tuple[BadKind, str] = ("unparsed", f"{theirs} '{given}' does not parse")
            why.setdefault(record, ("missing", f"{theirs} is missing") if empty else unparsed)
    table |= {name: as_text(events[theirs]) for name, theirs in _words(columns).items()}
    whole, dropped = _without(pa.table(table), rows, why)
    return whole, unit, dropped


def _words(columns: Columns) -> dict[str, str]:
    """Columns of text that may be empty: our name → theirs."""
    named = {"review": columns.review, "summary": columns.summary, "part": columns.split}
    return {ours: theirs for ours, theirs in named.items() if theirs}


def _without(table: pa.Table, rows: Rows, why: dict[int, tuple[BadKind, str]]) -> tuple[pa.Table, list[BadRow]]:
    """A table without some rows, and all that are left out: those and the rows that could not be read."""
    bad = sorted(why)
    whole = np.ones(table.num_rows, bool)
    whole[bad] = False
    dropped = [
        BadRow(why[record][0], place, why[record][1]) for record, place in zip(bad, rows.places(bad), strict=True)
    ]
    return table.filter(pa.array(whole)), rows.malformed + dropped


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; empty text counts as missing."""
    if pa.types.is_floating(column.type):
        # pandas makes whole numbers floats where one is missing: 123456789012 must not become 1.23456789012e+11.
        with contextlib.suppress(pa.ArrowInvalid):
            column = pc.cast(column, pa.int64())
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
