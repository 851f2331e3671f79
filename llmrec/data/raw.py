"""What a source returns: two tables as they stand in its files; and the SQL that reading and cleaning share."""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from llmrec.errors import DataError

BadKind = Literal["missing", "unparsed", "malformed", "contradiction"]
"""What is wrong with a row: it lacks an id, a time or a rating; a value is not of its column's kind; it cannot be read
at all; or it says something else of an item than the first row of that item."""

_numbers = itertools.count()


@dataclass(frozen=True)
class BadRow:
    """A row of a file that is left out: where it stands (`log.csv, line 7`), and why."""

    kind: BadKind
    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


@dataclass(frozen=True)
class Scan:
    """Interactions of `RawData` as a SELECT, for logs larger than memory, and the names of its columns.

    `db` is the database that keeps the rows, in a table `raw`; None where they stay in their files.
    """

    query: str
    columns: list[str]
    db: duckdb.DuckDBPyConnection | None = None


@dataclass
class RawData:
    """What a source returns; nothing is cleaned or split.

    Attributes:
        interactions: user_id, item_id: string; timestamp: int64; rating: float32 and review, summary, explanation:
            string where there are any; part: string where the source says what is held out.
        items: item_id: string, title and other columns.
        unit: of `timestamp`: "seconds", or "position" in the user's history.
        origin: name, licence, files.
        dropped: rows that are left out.
    """

    interactions: pa.Table | Scan
    items: pa.Table
    unit: str
    origin: dict[str, Any] = field(default_factory=dict)
    dropped: list[BadRow] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `interactions`."""
        table = self.interactions
        return table.columns if isinstance(table, Scan) else table.column_names


def check_bad_rows(bad: list[BadRow], max_bad_rows: int) -> None:
    """Raise a DataError that names the first rows, where more are left out than the recipe allows."""
    if len(bad) > max_bad_rows:
        more = f"\n… and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} row(s) do not parse (data.max_bad_rows allows {max_bad_rows}):\n"
            + "\n".join(map(str, bad[:5]))
            + more
            + f"\nMend them, or drop them with data.max_bad_rows={len(bad)}"
        )


def duckdb_connection() -> duckdb.DuckDBPyConnection:
    """A database in memory that spills to $TMPDIR. `LLMREC_MEMORY` is how many GiB it may hold, else four fifths."""
    folder = Path(tempfile.gettempdir()) / f"llmrec-{os.getpid()}-{next(_numbers)}"
    # Every order that matters is asked for, so DuckDB need not keep that of the files.
    db = duckdb.connect(config={"temp_directory": str(folder), "preserve_insertion_order": "false"})
    if limit := os.environ.get("LLMREC_MEMORY"):
        db.execute(f"SET memory_limit = '{float(limit)}GiB'")
    return db


def escape_glob(path: Path) -> str:
    """A path as DuckDB must get it to read just this file, whatever characters its name has."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in str(path.absolute()))


def sql_string(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def sql_paths(paths: list[Path]) -> str:
    """Files in SQL, as DuckDB's readers take them."""
    return "[" + ", ".join(sql_string(escape_glob(path)) for path in paths) + "]"


def sql_name(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def list_names(paths: list[Path]) -> str:
    """The names of files for a message or a record, at most five."""
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
