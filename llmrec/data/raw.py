"""The tables that a source returns before cleaning, and helpers for SQL that reading and cleaning share."""

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
"""Why a row is dropped: an id, time or rating is missing; a value does not parse as its column's type; the row cannot
be read at all; or it contradicts the first row of the same item."""

_numbers = itertools.count()


@dataclass(frozen=True)
class BadRow:
    """A row that is dropped: its place in the file (`log.csv, line 7`) and the reason."""

    kind: BadKind
    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


@dataclass(frozen=True)
class Scan:
    """Interactions as an SQL query, for logs larger than memory, and the names of its columns.

    `db` is the database with the rows in a table `raw`; None if the query reads files.
    """

    query: str
    columns: list[str]
    db: duckdb.DuckDBPyConnection | None = None


@dataclass
class RawData:
    """Interactions and items of a source, not yet cleaned or split.

    Attributes:
        interactions: user_id, item_id: string; timestamp: int64; optional: rating: float32, review, summary,
            explanation: string, part: string (train, valid or test).
        items: item_id: string, title and other columns.
        unit: of `timestamp`: "seconds", or "position" in the user's history.
        origin: name, licence, files.
        dropped: rows that could not be read.
    """

    interactions: pa.Table | Scan
    items: pa.Table
    unit: str
    origin: dict[str, Any] = field(default_factory=dict)
    dropped: list[BadRow] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Column names of `interactions`."""
        table = self.interactions
        return table.columns if isinstance(table, Scan) else table.column_names


def check_bad_rows(bad: list[BadRow], max_bad_rows: int) -> None:
    """Raise DataError with the first bad rows if there are more than `max_bad_rows`."""
    if len(bad) > max_bad_rows:
        shown = [str(row) for row in bad[:5]] + ([f"… and {len(bad) - 5} more"] if len(bad) > 5 else [])
        raise DataError(
            f"{len(bad)} row(s) do not parse (data.max_bad_rows allows {max_bad_rows}):\n"
            + "\n".join(shown)
            + f"\nCorrect them, or drop them with data.max_bad_rows={len(bad)}"
        )


def duckdb_connection() -> duckdb.DuckDBPyConnection:
    """Open a database in memory that spills to $TMPDIR. `LLMREC_MEMORY` limits it, in GiB; default: 80 % of the RAM."""
    folder = Path(tempfile.gettempdir()) / f"llmrec-{os.getpid()}-{next(_numbers)}"
    # Queries order explicitly where order matters, so DuckDB need not keep that of the files.
    db = duckdb.connect(config={"temp_directory": str(folder), "preserve_insertion_order": "false"})
    if limit := os.environ.get("LLMREC_MEMORY"):
        db.execute(f"SET memory_limit = '{float(limit)}GiB'")
    return db


def escape_glob(path: Path) -> str:
    """Return a path in which DuckDB reads `*?[` literally."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in str(path.absolute()))


def sql_string(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def sql_paths(paths: list[Path]) -> str:
    """Return an SQL list of paths for DuckDB's readers."""
    return "[" + ", ".join(sql_string(escape_glob(path)) for path in paths) + "]"


def sql_name(name: str) -> str:
    """Return a column name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def list_names(paths: list[Path]) -> str:
    """Return the names of at most five files, for messages and records."""
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
