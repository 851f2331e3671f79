"""User files as tables: CSV, TSV, JSONL and Parquet, plain or gzipped, with the line of every problem."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.dialect import Dialect, detect, zipped
from llmrec.data.raw import BadRow, escape_glob, sql_name
from llmrec.errors import DataError

# Nothing is guessed from a sample: a sniffed dialect fails without a line, and may skip the header.
_CSV = (
    "read_csv($path, header=true, auto_detect=false, columns=$columns, delim=$delimiter, "
    "store_rejects=true, strict_mode=$strict, quote='\"', escape='\"')"
)
_READERS = {
    ".csv": _CSV,
    ".tsv": _CSV,
    ".jsonl": "read_json($path, format='newline_delimited', ignore_errors=true, sample_size=-1)",
    ".parquet": "read_parquet($path)",
}


@dataclass(frozen=True)
class FileTable:
    """A file that was read: the rows that parsed, in file order, and of others line (from 1) → what is wrong."""

    path: Path
    table: pa.Table
    rejected: dict[int, str] = field(default_factory=dict)
    dialect: Dialect = field(default_factory=Dialect)

    def places(self, records: Sequence[int]) -> list[str]:
        """Where rows of `table` (ascending numbers) stand, such as `log.csv, line 7`; reads the file again."""
        if not records:
            return []
        if kind_of(self.path) == ".parquet":
            return [f"{self.path.name}, row {record + 1}" for record in records]
        wanted, found = set(records), []
        kept = (line for line, _ in _records(self.path, self.dialect) if line not in self.rejected)
        for record, line in enumerate(kept):
            if record in wanted:
                found.append(f"{self.path.name}, line {line}")
            if record == records[-1]:
                break
        return found

    @property
    def malformed(self) -> list[BadRow]:
        """The rejected rows."""
        return [
            BadRow("malformed", f"{self.path.name}, line {line}", why) for line, why in sorted(self.rejected.items())
        ]


def read_table(path: Path, delimiter: str | None = None, encoding: str | None = None) -> FileTable:
    """Read one file. Nested fields become columns with dotted names; CSV columns stay text.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file; the first three also as .gz.
        delimiter: what stands between columns of a CSV file; detected where None.
        encoding: of a file that is not UTF-8; Windows-1252 where None.

    Raises:
        DataError: no such file, unknown kind, empty, damaged, or in another encoding.
    """
    kind = kind_of(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}. Paths in a recipe are relative to the recipe.")
    if not path.stat().st_size:
        raise DataError(f"{path.name} is empty: it has no bytes at all. Give a file with a header and rows.")
    try:
        dialect = Dialect() if kind == ".parquet" else detect(path, kind, delimiter, encoding)
        try:
            rows = _read(path, kind, dialect)
        except duckdb.InvalidInputException as error:
            if "state machine" not in str(error):
                raise
            rows = _read(path, kind, dialect, strict=False)  # lines that end one way here and another there
    except (duckdb.Error, OSError, UnicodeDecodeError, EOFError, csv.Error) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path.name} cannot be read: {first}. Mend the file, or write it again.") from error
    if kind == ".jsonl":
        _refuse_other_json(rows)
        rows = _without_bad_lines(rows)
    if rows.table.num_rows == 0 and not rows.rejected:
        raise DataError(f"{path.name} is empty: it has no rows below its header.")
    return rows


def kind_of(path: Path) -> str:
    """The reader's name for a file, from its ending; raises DataError where there is none."""
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    kind = {".ndjson": ".jsonl", ".txt": ".tsv"}.get(endings[-1], endings[-1]) if endings else ""
    if kind not in _READERS:
        raise DataError(
            f"{path.name}: no reader for '{kind or 'a name without ending'}'. Known: {', '.join(_READERS)} (also .gz)."
        )
    return kind


def _read(path: Path, kind: str, dialect: Dialect, strict: bool = True) -> FileTable:
    db = duckdb.connect()
    with dialect.as_utf8(path) as readable:
        values: dict[str, Any] = {"path": escape_glob(readable)}
        if dialect.delimiter:
            columns = dict.fromkeys(_header(path, dialect), "VARCHAR")
            values |= {"columns": columns, "strict": strict, "delimiter": dialect.delimiter}
        read = db.sql(f"SELECT * FROM {_READERS[kind]}", params=values)
        assert read is not None  # a SELECT always gives a relation
        leaves = [leaf for name, kind in zip(read.columns, read.types, strict=True) for leaf in _leaves([name], kind)]
        table = read.select(", ".join(leaves)).to_arrow_table()
        return FileTable(path, table, _rejected(db, readable, path.name) if dialect.delimiter else {}, dialect)


def _leaves(names: list[str], kind: Any) -> list[str]:
    """What to select for a field; nested fields at every depth, and values of mixed kinds (JSON) as text."""
    if kind.id == "struct":
        return [leaf for name, inner in kind.children for leaf in _leaves([*names, name], inner)]
    value = ".".join(map(sql_name, names)) + (" ->> '$'" if str(kind) == "JSON" else "")
    return [f"{value} AS {sql_name('.'.join(names))}"]


def _records(path: Path, dialect: Dialect) -> Iterator[tuple[int, str]]:
    """Line (from 1) at which each record of a text file begins, and that line; blank lines are no records."""
    with dialect.open(path) as file:
        if dialect.delimiter is None:
            yield from ((line, text) for line, text in enumerate(file, 1) if text.strip())
            return
        reader = csv.reader(file, delimiter=dialect.delimiter)
        line = 1
        for number, record in enumerate(reader):
            if record and number:
                yield line, ""
            line = reader.line_num + 1


def _header(path: Path, dialect: Dialect) -> list[str]:
    """ColumnProfile names of a CSV or TSV file, without the blanks around them; nameless columns get their number."""
    assert dialect.delimiter
    with dialect.open(path) as file:
        names = next(csv.reader(file, delimiter=dialect.delimiter), [])
    names = [name.strip() or f"column {place}" for place, name in enumerate(names, 1)]
    if not names:
        raise DataError(f"{path.name}, line 1: a header with the names of the columns must stand in the first line.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path.name}, line 1: the header names the column '{twice[0]}' more than once. Rename one.")
    return names


def _without_bad_lines(rows: FileTable) -> FileTable:
    """DuckDB reads a line that is not JSON as a row of nulls; find those rows and say what is wrong with them."""
    nothing = pa.array([True] * rows.table.num_rows)
    for column in rows.table.columns:
        nothing = pc.and_(nothing, pc.is_null(column))
    bad = set(pc.indices_nonzero(nothing).to_pylist())
    if not bad:
        return rows
    why = {
        line: _not_json(text) for record, (line, text) in enumerate(_records(rows.path, rows.dialect)) if record in bad
    }
    return FileTable(rows.path, rows.table.filter(pc.invert(nothing)), why, rows.dialect)


def _refuse_other_json(rows: FileTable) -> None:
    """DuckDB gives up on columns where one line is JSON, but no object with fields; name the first such line."""
    for line, text in _records(rows.path, rows.dialect) if rows.table.column_names == ["json"] else ():
        with contextlib.suppress(ValueError):
            if not isinstance(json.loads(text), dict):
                shown = text.strip()[:40]
                raise DataError(f"{rows.path.name}, line {line}: {shown} is no object with fields, such as {{...}}.")


def _not_json(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        return f"not JSON ({str(error).split(':')[0].lower()})"
    return "no field has a value"


def _rejected(db: duckdb.DuckDBPyConnection, path: Path, name: str) -> dict[int, str]:
    """Line → complaint for the rows that DuckDB's CSV reader left out, and for every line that they took with them.

    DuckDB counts records where it says lines, so the line is counted here from the byte at which the row begins.
    """
    errors = db.sql(
        "SELECT DISTINCT ON (line) line_byte_position, error_message FROM reject_errors ORDER BY 1"
    ).fetchall()
    if not errors:
        return {}
    with (gzip.open if zipped(path) else open)(path, "rb") as file:
        content = file.read()
    found, line, reached = {}, 1, 0
    for position, message in errors:
        start = position - 1
        while content[start : start + 1] in (b"\r", b"\n"):
            start += 1
        line, reached = line + content.count(b"\n", reached, start), start
        more, closed = _lines_of_row(content, start)
        if more and not closed:
            raise DataError(
                f'{name}, line {line}: a quote (") opens a value there that is never closed, so the {more} line(s) '
                "below would be part of it. Take the quote out, close it, or double it where it belongs to the value."
            )
        found[line] = message.splitlines()[0].rstrip(".")
        found |= {line + n: f'taken in by a quote (") that opens in line {line}' for n in range(1, more + 1)}
    return found


def _lines_of_row(content: bytes, start: int) -> tuple[int, bool]:
    """How many further lines the row that begins at a byte goes on over, and whether its quotes are closed."""
    inside, lines = False, 0
    for mark in re.finditer(rb"[\"\n]", content[start:]):
        if mark[0] == b'"':
            inside = not inside
        elif not inside:
            return lines, True
        else:
            lines += mark.end() < len(content) - start
    return lines, not inside
