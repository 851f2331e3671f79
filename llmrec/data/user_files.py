"""The user's own files as a data source: one or several files, in memory or streamed."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.data.columns import as_text, read_times, try_cast
from llmrec.data.raw import BadKind, BadRow, RawData, Scan, check_bad_rows, list_names, sql_name, sql_paths
from llmrec.data.tables import FileTable, kind_of, read_table
from llmrec.errors import DataError
from llmrec.recipe import Columns, Data

STREAMED = 5_000_000  # a Parquet log of this many rows or more is scanned while it is cleaned, not loaded
_Reasons = dict[int, tuple[BadKind, str]]  # row number → kind and description of the error


def files(pattern: str) -> list[Path]:
    """Return the file of a path, or the files that a pattern with * matches, sorted by name.

    Raises:
        DataError: the pattern matches nothing.
    """
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]
    matches = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not matches:
        raise DataError(f"no file matches {pattern}. Paths in a recipe are relative to the recipe.")
    return matches


def paths(data: Data) -> tuple[list[Path], list[Path]]:
    """Return the files of interactions and of items of a recipe; errors as `files`."""
    assert data.interactions and data.items
    return files(data.interactions), files(data.items)


def read_files(data: Data, quiet: bool = False) -> RawData:
    """Read the user's files. Without timestamps, the order of events is that of the files, sorted by name.

    Raises:
        DataError: a column is missing, or more rows than allowed do not parse (with file and line).
    """
    logs, catalogues = paths(data)
    items = [read_table(path, data.delimiter, data.encoding) for path in catalogues]
    scan = _scan(logs, data) if _streams(logs, data.columns) else None
    events = [] if scan else [read_table(path, data.delimiter, data.encoding) for path in logs]
    for file in [] if quiet else events + items:
        for note in file.format.notes + [file.format.not_utf8] * bool(file.format.not_utf8):
            warnings.warn(note, stacklevel=2)
    tables: list[pa.Table] = []
    dropped: list[BadRow] = []
    before = 0
    for file in events:
        table, bad = _events(file, data, before)
        tables.append(table)
        dropped += bad
        before += file.table.num_rows
    interactions, dropped = scan or (_concat(tables), dropped)
    catalogue = [_items(file, data.columns) for file in items]
    dropped = dropped + [row for _, bad in catalogue for row in bad]
    check_bad_rows(dropped, data.max_bad_rows)
    origin = {"source": "files", "files": f"{list_names(logs)}; {list_names(catalogues)}"}
    unit = "seconds" if data.columns.timestamp else "position"
    return RawData(interactions, _concat([table for table, _ in catalogue]), unit, origin, dropped)


def _concat(tables: list[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def _streams(logs: list[Path], columns: Columns) -> bool:
    """Whether a log is large Parquet with plain columns, which is scanned instead of loaded."""
    if any(kind_of(path) != ".parquet" or not path.is_file() for path in logs):
        return False
    try:
        opened = [pq.ParquetFile(path) for path in logs]
    except (pa.ArrowException, OSError):
        return False  # unreadable or not Parquet: `read_table` reports it
    if sum(file.metadata.num_rows for file in opened) < STREAMED:
        return False
    schema = opened[0].schema_arrow
    _require(logs[0].name, schema.names, _needed(columns))
    ids = [schema.field(name).type for name in (columns.user_id, columns.item_id)]
    numbers = [schema.field(name).type for name in (columns.timestamp, columns.rating) if name]
    return (
        columns.timestamp is not None
        and all(pa.types.is_string(kind) or pa.types.is_integer(kind) for kind in ids)
        and all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in numbers)
    )


def _scan(logs: list[Path], data: Data) -> tuple[Scan, list[BadRow]]:
    source = f"read_parquet({sql_paths(logs)}, filename=true, file_row_number=true)"
    columns = data.columns
    texts = {"user_id": columns.user_id, "item_id": columns.item_id} | _texts(columns)
    chosen = {name: f"nullif(trim(CAST({sql_name(column)} AS VARCHAR)), '')" for name, column in texts.items()}
    time = sql_name(columns.timestamp or "")
    db = duckdb.connect()
    largest = db.execute(f"SELECT max(abs({time})) FROM {source} WHERE isfinite({time}::DOUBLE)").fetchall()[0][0] or 0
    scale = 1 if largest < 1e11 else 1_000 if largest < 1e14 else 1_000_000  # seconds, milli- or microseconds
    chosen["timestamp"] = f"CAST(floor({time} / {scale}) AS BIGINT)"
    if columns.rating:
        chosen["rating"] = f"CAST({sql_name(columns.rating)} AS FLOAT)"
    needed = [chosen[name] for name in ("user_id", "item_id", "timestamp", "rating") if name in chosen]
    whole = " AND ".join(f"{expression} IS NOT NULL" for expression in needed)
    bad = db.execute(f"SELECT filename, file_row_number FROM {source} WHERE NOT ({whole}) ORDER BY 1, 2").fetchall()
    why = "an id, the time or the rating is missing"
    dropped = [BadRow("missing", f"{Path(name).name}, row {row + 1}", why) for name, row in bad]
    selected = ", ".join(f"{expression} AS {name}" for name, expression in chosen.items())
    return Scan(f"SELECT {selected} FROM {source} WHERE {whole}", list(chosen)), dropped


def _items(rows: FileTable, columns: Columns) -> tuple[pa.Table, list[BadRow]]:
    """Return the items with our column names, and the dropped rows: no id, or contradicting an earlier row."""
    key, title = columns.item_key or columns.item_id, columns.title
    names = rows.table.column_names
    _require(rows.path.name, names, {"item_key": key} | ({"title": title} if title else {}))
    ids = as_text(rows.table[key])
    rest = [name for name in names if name not in (key, "item_id", title)]
    chosen = {"title": rows.table[title]} if title else {}
    items = pa.table({"item_id": ids, **{name: rows.table[name] for name in rest}, **chosen})
    why: _Reasons = dict.fromkeys(pc.indices_nonzero(pc.is_null(ids)).to_pylist(), ("missing", f"{key} is missing"))
    first_rows = _contradictions(items)
    firsts = sorted(set(first_rows.values()))
    places = dict(zip(firsts, rows.places(firsts), strict=True))
    for row, first in first_rows.items():
        why[row] = ("contradiction", f"item '{ids[row]}' differs from its first row ({places[first]})")
    return _without(items, rows, why)


def _contradictions(items: pa.Table) -> dict[int, int]:
    """Find rows that differ from the first row of the same item; row number → number of that first row."""
    others = [f"c{place}" for place in range(1, items.num_columns)]
    if not others:
        return {}
    db = duckdb.connect()
    rows = pa.array(range(items.num_rows), pa.int64())
    db.register("items", items.rename_columns(["item_id", *others]).append_column("place", rows))
    differing = db.sql(
        f"""SELECT place, first FROM (
               SELECT place, row({", ".join(others)}) AS content, first_value(place) OVER w AS first,
                      first_value(row({", ".join(others)})) OVER w AS first_content
               FROM items WHERE item_id IS NOT NULL WINDOW w AS (PARTITION BY item_id ORDER BY place))
            WHERE content IS DISTINCT FROM first_content ORDER BY place"""
    )
    return dict(differing.fetchall())


def _needed(columns: Columns) -> dict[str, str]:
    """Return the required columns of the log: key of `data.columns` → name in the file."""
    keys = ("user_id", "item_id", "timestamp", "rating", "review", "summary", "split")
    return {key: name for key in keys if (name := getattr(columns, key))}


def _require(file: str, names: Iterable[str], needed: dict[str, str]) -> None:
    for key, name in needed.items():
        if name not in names:
            raise DataError(
                f"{file} has no column '{name}'. It has: {', '.join(names)}.\n"
                f"Set its name in the recipe: data.columns.{key}=NAME"
                + (" (or data.columns.timestamp=null: file order is time order)" if key == "timestamp" else "")
            )


def _events(rows: FileTable, data: Data, before: int) -> tuple[pa.Table, list[BadRow]]:
    """Cast the columns, and drop rows that do not parse. `before`: number of rows in earlier files."""
    events, columns = rows.table, data.columns
    _require(rows.path.name, events.column_names, _needed(columns))
    table = {"user_id": as_text(events[columns.user_id]), "item_id": as_text(events[columns.item_id])}
    if columns.timestamp:
        column = events[columns.timestamp]
        table["timestamp"] = read_times(column, rows.path.name, columns.timestamp, data.day_first).seconds
    else:
        table["timestamp"] = pa.chunked_array([pa.array(range(before, before + events.num_rows), pa.int64())])
    if columns.rating:
        table["rating"] = try_cast(events[columns.rating], "FLOAT")
    why: _Reasons = {}
    for name, column in table.items():
        for record in pc.indices_nonzero(pc.is_null(column)).to_pylist():
            column_name = getattr(columns, name)
            value = events[column_name][record].as_py()
            if value is None or not str(value).strip():
                why.setdefault(record, ("missing", f"{column_name} is missing"))
            else:
                why.setdefault(record, ("unparsed", f"{column_name} '{value}' does not parse"))
    table |= {name: as_text(events[column_name]) for name, column_name in _texts(columns).items()}
    return _without(pa.table(table), rows, why)


def _texts(columns: Columns) -> dict[str, str]:
    """Return the optional text columns: our name → name in the file."""
    names = {"review": columns.review, "summary": columns.summary, "part": columns.split}
    return {name: column for name, column in names.items() if column}


def _without(table: pa.Table, rows: FileTable, why: _Reasons) -> tuple[pa.Table, list[BadRow]]:
    """Remove rows from a table; return it, and the removed and the unreadable rows."""
    bad = sorted(why)
    valid = np.ones(table.num_rows, bool)
    valid[bad] = False
    dropped = [BadRow(why[row][0], place, why[row][1]) for row, place in zip(bad, rows.places(bad), strict=True)]
    return table.filter(pa.array(valid)), rows.malformed + dropped
