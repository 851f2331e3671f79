"""What a source gives: two tables as they stand, and what is known of them. Nothing is cleaned or split here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb
import pyarrow as pa

BadKind = Literal["missing", "unparsed", "malformed", "contradiction"]
"""What is wrong with a row: it lacks an id, a time or a rating; a value is not of its column's kind; it cannot be read
at all; or it says something else of an item than the first row of that item."""


@dataclass(frozen=True)
class BadRow:
    """A row of a file that is left out.

    Attributes:
        kind: what is wrong.
        place: where it stands, such as `log.csv, line 7`.
        why: what is wrong, in words.
    """

    kind: BadKind
    place: str
    why: str

    def __str__(self) -> str:
        """Place and reason on one line."""
        return f"{self.place}: {self.why}"


@dataclass(frozen=True)
class Scan:
    """Rows that DuckDB streams or keeps, for logs larger than memory.

    Attributes:
        query: a SELECT that gives the columns of `Raw.interactions`, by the same types.
        columns: their names.
        db: the database that keeps the rows, in a table `raw`; None where they stay in their files.
    """

    query: str
    columns: list[str]
    db: duckdb.DuckDBPyConnection | None = None


@dataclass
class Raw:
    """What a source gives.

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
