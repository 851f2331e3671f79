"""Somebody's own files as tables: CSV, TSV, JSONL and Parquet, plain or gzipped, with the line of every problem."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import duckdb
import pyarrow as pa

from llmrec.errors import DataError

_READERS = {
    ".csv": "read_csv($path, header=true, all_varchar=true, delim=',', store_rejects=true, quote='\"', escape='\"')",
    ".tsv": "read_csv($path, header=true, all_varchar=true, delim='\t', store_rejects=true, quote='\"', escape='\"')",
    ".jsonl": "read_json($path, format='newline_delimited', ignore_errors=$lenient, sample_size=-1)",
    ".parquet": "read_parquet($path)",
}


def read_table(path: Path, max_bad_rows: int = 0) -> tuple[pa.Table, list[str]]:
    """Read one file. Nested fields become columns with dotted names; CSV columns stay text.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file; the first three also as .gz.
        max_bad_rows: rows that may fail to parse and be left out before the file is refused.

    Returns:
        The table, and one line of words for each row left out.

    Raises:
        DataError: no such file, unknown kind, empty, or too many rows that do not parse (file and line).
    """
    kind = kind_of(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}. Paths in a recipe are relative to the recipe.")
    connection = duckdb.connect()
    values = {"path": str(path)} | ({"lenient": max_bad_rows > 0} if kind == ".jsonl" else {})
    try:
        table = connection.sql(f"SELECT * FROM {_READERS[kind]}", params=values).to_arrow_table()
        bad = _rejected(connection, path) if kind in (".csv", ".tsv") else []
    except duckdb.Error as error:
        raise DataError(f"{path.name} cannot be read: {_first_line(error)}. Mend that row, or the file.") from error
    refuse_many(bad, max_bad_rows)
    if table.num_rows == 0:
        raise DataError(f"{path.name} is empty: it has no rows below its header.")
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table, bad


def kind_of(path: Path) -> str:
    """The reader's name for a file, from its ending.

    Raises:
        DataError: no reader for that ending.
    """
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    kind = {".ndjson": ".jsonl", ".txt": ".tsv"}.get(endings[-1], endings[-1]) if endings else ""
    if kind not in _READERS:
        raise DataError(
            f"{path.name}: no reader for '{kind or 'a name without ending'}'. Known: {', '.join(_READERS)} (also .gz)."
        )
    return kind


def refuse_many(bad: list[str], max_bad_rows: int) -> None:
    """Stop when more rows are malformed than the recipe allows.

    Raises:
        DataError: names the first few.
    """
    if len(bad) > max_bad_rows:
        more = f"\n… and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} row(s) do not parse (data.max_bad_rows allows {max_bad_rows}):\n"
            + "\n".join(bad[:5])
            + more
            + f"\nMend them, or drop them with data.max_bad_rows={len(bad)}"
        )


def line_of_record(path: Path, record: int) -> int:
    """The line (from 1) at which data record `record` (from 0) of a file ends; only read when there is an error to tell."""
    kind = kind_of(path)
    if kind == ".parquet":
        return record + 1
    if kind == ".jsonl":
        return record + 1
    opened = (
        gzip.open(path, "rt", errors="replace", newline="")
        if path.suffix == ".gz"
        else path.open(errors="replace", newline="")
    )
    with opened as file:
        reader = csv.reader(file, delimiter="\t" if kind == ".tsv" else ",")
        for number, _ in enumerate(reader):
            if number == record + 1:
                break
        return reader.line_num


def _rejected(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    rows = connection.execute(
        "SELECT DISTINCT ON (line) line, error_message FROM reject_errors ORDER BY line"
    ).fetchall()
    return [f"{path.name}, line {line}: {message.splitlines()[0]}" for line, message in rows]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
