"""How a text file is written: its encoding, and for CSV what stands between columns. Detected, told, or given."""

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
_CANDIDATES = ",;\t|"
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a very long title is a row like any other


def _from_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", errors="replace"), error.end


# Exports are often pasted together from several systems, so only the bytes that are not UTF-8 are read otherwise.
codecs.register_error("windows-1252", _from_windows)


@dataclass(frozen=True)
class Dialect:
    """How one text file is written.

    Attributes:
        delimiter: what stands between columns; None where a line is JSON.
        encoding, errors: as Python's `open` wants them.
        marked: the file begins with a byte order mark.
        notes: what was found that is not ordinary, in words.
        not_utf8: the note, if there is one, about bytes that are not UTF-8 and were read otherwise.
    """

    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    errors: str = "strict"
    marked: bool = False
    notes: list[str] = field(default_factory=list)
    not_utf8: list[str] = field(default_factory=list)

    def open(self, path: Path) -> IO[str]:
        """The file as text, unzipped, its line ends as they are."""
        opened = gzip.open if path.suffix.lower() == ".gz" else open
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
                while text := source.read(1 << 20):
                    target.write(text)
            yield copy


def detect(path: Path, kind: str, delimiter: str | None = None, encoding: str | None = None) -> Dialect:
    """Find out how a text file is written.

    Args:
        path: a .csv, .tsv or .jsonl file, plain or gzipped.
        kind: which of the three.
        delimiter: what stands between columns, where the caller knows it.
        encoding: of a file that is not UTF-8, where the caller knows it; Windows-1252 otherwise.

    Raises:
        DataError: `encoding` is no encoding, or not that of the file.
    """
    found = _encoding(path, encoding)
    if kind not in _DELIMITERS:
        return found
    with found.open(path) as file:
        mark = delimiter or _delimiter(file, _DELIMITERS[kind])
    usual = delimiter is not None or mark == _DELIMITERS[kind]
    notes = [] if usual else [f"{path.name}: {_name(mark)} stand between its columns"]
    return replace(found, delimiter=mark, notes=found.notes + notes)


def _name(delimiter: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}.get(delimiter, repr(delimiter))


def _delimiter(file: IO[str], usual: str) -> str:
    """The mark that splits the header into the most columns; the usual one where that is a tie."""
    header = file.readline()
    columns = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in _CANDIDATES}
    return max(columns, key=lambda mark: (columns[mark], mark == usual))


def _encoding(path: Path, given: str | None) -> Dialect:
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        head = file.read(4)
        marked = head.startswith(codecs.BOM_UTF8)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return Dialect(encoding="utf-16", notes=[f"{path.name}: read as UTF-16"])
        file.seek(0)
        line, why = _first_line_that_is_not_utf8(file)
    if not line:
        return Dialect(marked=marked)
    if given:
        return _given(path, given)
    note = f"{path.name}, line {line}: not UTF-8 ({why}); such bytes are read as Windows-1252 (else set data.encoding)"
    return Dialect(errors="windows-1252", marked=marked, notes=[note], not_utf8=[note])


def _first_line_that_is_not_utf8(file: IO[bytes] | gzip.GzipFile) -> tuple[int, str]:
    """Line (from 1; 0 for none) with the first byte that is not UTF-8, and the byte in words."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    while True:
        chunk = file.read(1 << 20)
        try:
            line += decoder.decode(chunk, final=not chunk).count("\n")
        except UnicodeDecodeError as error:
            before = error.object[: error.start].count(b"\n")
            return line + before, f"byte {error.object[error.start]:#04x}"
        if not chunk:
            return 0, ""


def _given(path: Path, encoding: str) -> Dialect:
    found = Dialect(encoding=encoding, notes=[f"{path.name}: read as {encoding}"])
    try:
        with found.open(path) as file:
            while file.read(1 << 20):
                pass
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f"data.encoding: {encoding} does not fit {path.name}: {error}. Try another, such as cp1252 or utf-16."
        ) from error
    return found
