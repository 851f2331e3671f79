"""Read a user's CSV, TSV, JSONL or Parquet file, plain or gzipped, and report each bad row with its line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

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
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}
_CHUNK = 1 << 20
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a very long title is a row like any other


def _from_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", errors="replace"), error.end


# Exports are often pasted together from several systems, so only the bytes that are not UTF-8 are read otherwise.
codecs.register_error("windows-1252", _from_windows)


@dataclass(frozen=True)
class TextFormat:
    """Encoding and delimiter of a text file.

    Attributes:
        delimiter: of columns; None for JSON lines.
        encoding, errors: as for Python's `open`.
        has_bom: whether the file begins with a byte order mark.
        notes: what is unusual, as sentences.
        not_utf8: a sentence on bytes that are not UTF-8, or "".
    """

    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    errors: str = "strict"
    has_bom: bool = False
    notes: list[str] = field(default_factory=list)
    not_utf8: str = ""

    def open(self, path: Path) -> IO[str]:
        """Open a file as text, unzipped, with its own line ends."""
        opener = gzip.open if _is_gzip(path) else open
        return opener(path, "rt", encoding=self.encoding, errors=self.errors, newline="")

    @contextlib.contextmanager
    def as_utf8(self, path: Path) -> Iterator[Path]:
        """Yield the file itself if DuckDB can read it, otherwise a temporary copy in UTF-8."""
        is_utf8 = self.encoding == "utf-8-sig" and self.errors == "strict"
        if is_utf8 and not (self.has_bom and self.delimiter is None):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="llmrec-") as folder:
            copy = Path(folder) / "copy"
            with self.open(path) as source, copy.open("w", encoding="utf-8", newline="") as target:
                while text := source.read(_CHUNK):
                    target.write(text)
            yield copy


@dataclass(frozen=True)
class FileTable:
    """A file that was read: its valid rows in file order, and line (from 1) → error of each rejected row."""

    path: Path
    table: pa.Table
    rejected: dict[int, str] = field(default_factory=dict)
    format: TextFormat = field(default_factory=TextFormat)

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return the place of rows of `table` (ascending), such as `log.csv, line 7`. Reads the file again."""
        if not rows:
            return []
        if kind_of(self.path) == ".parquet":
            return [f"{self.path.name}, row {row + 1}" for row in rows]
        wanted, name = set(rows), self.path.name
        valid = (line for line, _ in _records(self.path, self.format) if line not in self.rejected)
        return [f"{name}, line {line}" for row, line in enumerate(islice(valid, rows[-1] + 1)) if row in wanted]

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
        delimiter: of a CSV file; detected if None.
        encoding: of a file that is not UTF-8; Windows-1252 if None.

    Raises:
        DataError: no such file, unknown format, empty, damaged, or in another encoding.
    """
    kind = kind_of(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}. Paths in a recipe are relative to the recipe.")
    if not path.stat().st_size:
        raise DataError(f"{path.name} is empty: it has no bytes at all. Give a file with a header and rows.")
    try:
        format = TextFormat() if kind == ".parquet" else _detect_format(path, kind, delimiter, encoding)
        try:
            file = _read(path, kind, format)
        except duckdb.InvalidInputException as error:
            if "state machine" not in str(error):
                raise
            file = _read(path, kind, format, strict=False)  # mixed line ends
    except (duckdb.Error, OSError, UnicodeDecodeError, EOFError, csv.Error) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path.name} cannot be read: {first}. Correct the file, or write it again.") from error
    if kind == ".jsonl":
        _refuse_other_json(file)
        file = _without_bad_lines(file)
    if file.table.num_rows == 0 and not file.rejected:
        raise DataError(f"{path.name} is empty: it has no rows below its header.")
    return file


def kind_of(path: Path) -> str:
    """Return the format of a file by its ending, such as `.csv`; DataError if it is unknown."""
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    kind = {".ndjson": ".jsonl", ".txt": ".tsv"}.get(endings[-1], endings[-1]) if endings else ""
    if kind not in _READERS:
        raise DataError(
            f"{path.name}: no reader for '{kind or 'a name without ending'}'. Known: {', '.join(_READERS)} (also .gz)."
        )
    return kind


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _detect_format(path: Path, kind: str, delimiter: str | None, encoding: str | None) -> TextFormat:
    format = _detect_encoding(path, encoding)
    if kind not in _DELIMITERS:
        return format
    usual = _DELIMITERS[kind]
    if delimiter:
        return replace(format, delimiter=delimiter)
    with format.open(path) as file:
        header = file.readline()
    columns = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in _DELIMITER_NAMES}
    mark = max(columns, key=lambda mark: (columns[mark], mark == usual))  # the most columns; the usual one in a tie
    notes = [] if mark == usual else [f"{path.name}: {_DELIMITER_NAMES[mark]} separate its columns"]
    return replace(format, delimiter=mark, notes=format.notes + notes)


def _detect_encoding(path: Path, encoding: str | None) -> TextFormat:
    with (gzip.open if _is_gzip(path) else open)(path, "rb") as file:
        head = file.read(4)
        has_bom = head.startswith(codecs.BOM_UTF8)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return TextFormat(encoding="utf-16", notes=[f"{path.name}: read as UTF-16"])
        file.seek(0)
        line, byte = _first_line_not_utf8(file)
    if not line:
        return TextFormat(has_bom=has_bom)
    if not encoding:
        note = f"{path.name}, line {line}: not UTF-8 (byte {byte:#04x}); such bytes are read as Windows-1252"
        return TextFormat(errors="windows-1252", has_bom=has_bom, not_utf8=f"{note} (or set data.encoding)")
    format = TextFormat(encoding=encoding, notes=[f"{path.name}: read as {encoding}"])
    try:
        with format.open(path) as text:
            while text.read(_CHUNK):
                pass
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f"data.encoding: {encoding} does not fit {path.name}: {error}. Try another, such as cp1252 or utf-16."
        ) from error
    return format


def _first_line_not_utf8(file: IO[bytes] | gzip.GzipFile) -> tuple[int, int]:
    """Return the line (from 1) of the first byte that is not UTF-8, and the byte; line 0 if there is none."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    while True:
        chunk = file.read(_CHUNK)
        try:
            line += decoder.decode(chunk, final=not chunk).count("\n")
        except UnicodeDecodeError as error:
            return line + error.object[: error.start].count(b"\n"), error.object[error.start]
        if not chunk:
            return 0, 0


def _read(path: Path, kind: str, format: TextFormat, strict: bool = True) -> FileTable:
    db = duckdb.connect()
    with format.as_utf8(path) as readable:
        values: dict[str, Any] = {"path": escape_glob(readable)}
        if format.delimiter:
            columns = dict.fromkeys(_header(path, format), "VARCHAR")
            values |= {"columns": columns, "strict": strict, "delimiter": format.delimiter}
        relation = db.sql(f"SELECT * FROM {_READERS[kind]}", params=values)
        assert relation is not None  # a SELECT always gives a relation
        fields = [f for name, type in zip(relation.columns, relation.types, strict=True) for f in _fields([name], type)]
        table = relation.select(", ".join(fields)).to_arrow_table()
        return FileTable(path, table, _rejected(db, readable, path.name) if format.delimiter else {}, format)


def _fields(names: list[str], type: Any) -> list[str]:
    """SQL for a field: nested fields at every depth become columns, values of mixed types (JSON) become text."""
    if type.id == "struct":
        return [field for name, inner in type.children for field in _fields([*names, name], inner)]
    value = ".".join(map(sql_name, names)) + (" ->> '$'" if str(type) == "JSON" else "")
    return [f"{value} AS {sql_name('.'.join(names))}"]


def _records(path: Path, format: TextFormat) -> Iterator[tuple[int, str]]:
    """Yield the line number (from 1) at which each record begins, and for JSON the line. Blank lines are skipped."""
    with format.open(path) as file:
        if format.delimiter is None:
            yield from ((line, text) for line, text in enumerate(file, 1) if text.strip())
            return
        reader = csv.reader(file, delimiter=format.delimiter)
        line = 1
        for number, record in enumerate(reader):
            if record and number:
                yield line, ""
            line = reader.line_num + 1


def _header(path: Path, format: TextFormat) -> list[str]:
    """Column names of a CSV file, stripped; columns without a name get their number."""
    assert format.delimiter
    with format.open(path) as file:
        names = next(csv.reader(file, delimiter=format.delimiter), [])
    names = [name.strip() or f"column {number}" for number, name in enumerate(names, 1)]
    if not names:
        raise DataError(f"{path.name}, line 1: the first line must be a header with the names of the columns.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path.name}, line 1: the header has the column '{repeated[0]}' more than once. Rename one.")
    return names


def _without_bad_lines(file: FileTable) -> FileTable:
    """Reject the lines that are not JSON, which DuckDB reads as rows of nulls."""
    empty = pa.array([True] * file.table.num_rows)
    for column in file.table.columns:
        empty = pc.and_(empty, pc.is_null(column))
    bad = set(pc.indices_nonzero(empty).to_pylist())
    if not bad:
        return file
    why = {line: _json_error(text) for row, (line, text) in enumerate(_records(file.path, file.format)) if row in bad}
    return FileTable(file.path, file.table.filter(pc.invert(empty)), why, file.format)


def _refuse_other_json(file: FileTable) -> None:
    """Name the first line that is JSON but not an object; DuckDB reads such files as one column `json`."""
    for line, text in _records(file.path, file.format) if file.table.column_names == ["json"] else ():
        with contextlib.suppress(ValueError):
            if not isinstance(json.loads(text), dict):
                shown = text.strip()[:40]
                raise DataError(
                    f"{file.path.name}, line {line}: {shown} is not an object with fields, such as {{...}}."
                )


def _json_error(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        return f"not JSON ({str(error).split(':')[0].lower()})"
    return "no field has a value"


def _rejected(db: duckdb.DuckDBPyConnection, path: Path, name: str) -> dict[int, str]:
    """Return line → error of the rows that DuckDB's CSV reader rejected, and of further lines inside such a row.

    DuckDB reports record numbers, so the line is counted here from the byte offset of the row.
    """
    query = "SELECT DISTINCT ON (line) line_byte_position, error_message FROM reject_errors ORDER BY 1"
    errors = db.sql(query).fetchall()
    if not errors:
        return {}
    with (gzip.open if _is_gzip(path) else open)(path, "rb") as file:
        content = file.read()
    rejected, line, reached = {}, 1, 0
    for position, message in errors:
        start = position - 1
        while content[start : start + 1] in (b"\r", b"\n"):
            start += 1
        line, reached = line + content.count(b"\n", reached, start), start
        more, closed = _lines_of_row(content, start)
        if more and not closed:
            raise DataError(
                f'{name}, line {line}: a quote (") opens a value there that is never closed, so the {more} line(s) '
                "below would be part of it. Remove the quote, close it, or double it if it belongs to the value."
            )
        rejected[line] = message.splitlines()[0].rstrip(".")
        rejected |= {line + n: f'part of a value whose quote (") opens in line {line}' for n in range(1, more + 1)}
    return rejected


def _lines_of_row(content: bytes, start: int) -> tuple[int, bool]:
    """Return how many further lines the row at a byte offset has, and whether its quotes are closed."""
    quoted, lines = False, 0
    for mark in re.finditer(rb"[\"\n]", content[start:]):
        if mark[0] == b'"':
            quoted = not quoted
        elif not quoted:
            return lines, True
        else:
            lines += mark.end() < len(content) - start
    return lines, not quoted
