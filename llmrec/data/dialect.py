"""How a text file is written: its encoding, and for CSV the delimiter; detected, unless the recipe gives them."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from llmrec.errors import DataError

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
class Dialect:
    """How a text file is written.

    Attributes:
        delimiter: what stands between columns; None where a line is JSON.
        encoding, errors: as Python's `open` wants them.
        marked: the file begins with a byte order mark.
        notes: what is not ordinary, in words.
        not_utf8: those of `notes` about bytes that are not UTF-8 and were read otherwise.
    """

    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    errors: str = "strict"
    marked: bool = False
    notes: list[str] = field(default_factory=list)
    not_utf8: list[str] = field(default_factory=list)

    def open(self, path: Path) -> IO[str]:
        """The file as text, unzipped, its line ends as they are."""
        opened = gzip.open if zipped(path) else open
        return opened(path, "rt", encoding=self.encoding, errors=self.errors, newline="")

    @contextlib.contextmanager
    def as_utf8(self, path: Path) -> Iterator[Path]:
        """The file itself where DuckDB can read it; otherwise a temporary copy in UTF-8."""
        ordinary = self.encoding == "utf-8-sig" and self.errors == "strict"
        if ordinary and not (self.marked and self.delimiter is None):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="llmrec-") as folder:
            copy = Path(folder) / "copy"
            with self.open(path) as source, copy.open("w", encoding="utf-8", newline="") as target:
                while text := source.read(_CHUNK):
                    target.write(text)
            yield copy


def zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def detect(path: Path, kind: str, delimiter: str | None, encoding: str | None) -> Dialect:
    """Find out how a text file is written; arguments and errors as of `tables.read_table`."""
    dialect = _encoding(path, encoding)
    if kind not in _DELIMITERS:
        return dialect
    usual = _DELIMITERS[kind]
    if delimiter:
        return replace(dialect, delimiter=delimiter)
    with dialect.open(path) as file:
        header = file.readline()
    columns = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in _DELIMITER_NAMES}
    mark = max(columns, key=lambda mark: (columns[mark], mark == usual))  # the most columns; the usual one in a tie
    notes = [] if mark == usual else [f"{path.name}: {_DELIMITER_NAMES[mark]} stand between its columns"]
    return replace(dialect, delimiter=mark, notes=dialect.notes + notes)


def _encoding(path: Path, given: str | None) -> Dialect:
    with (gzip.open if zipped(path) else open)(path, "rb") as file:
        head = file.read(4)
        marked = head.startswith(codecs.BOM_UTF8)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return Dialect(encoding="utf-16", notes=[f"{path.name}: read as UTF-16"])
        file.seek(0)
        line, byte = _first_line_that_is_not_utf8(file)
    if not line:
        return Dialect(marked=marked)
    if not given:
        note = (
            f"{path.name}, line {line}: not UTF-8 (byte {byte:#04x}); such bytes are read as Windows-1252 "
            "(else set data.encoding)"
        )
        return Dialect(errors="windows-1252", marked=marked, notes=[note], not_utf8=[note])
    dialect = Dialect(encoding=given, notes=[f"{path.name}: read as {given}"])
    try:
        with dialect.open(path) as text:
            while text.read(_CHUNK):
                pass
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f"data.encoding: {given} does not fit {path.name}: {error}. Try another, such as cp1252 or utf-16."
        ) from error
    return dialect


def _first_line_that_is_not_utf8(file: IO[bytes] | gzip.GzipFile) -> tuple[int, int]:
    """Line (from 1; 0 for none) with the first byte that is not UTF-8, and the byte."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    while True:
        chunk = file.read(_CHUNK)
        try:
            line += decoder.decode(chunk, final=not chunk).count("\n")
        except UnicodeDecodeError as error:
            return line + error.object[: error.start].count(b"\n"), error.object[error.start]
        if not chunk:
            return 0, 0
