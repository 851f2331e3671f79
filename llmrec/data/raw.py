"""What a source gives: two tables as they stand, and what is known of them. Nothing is cleaned or split here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa


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
        dropped: one line of words for each row that did not parse.
    """

    interactions: pa.Table | Scan
    items: pa.Table
    unit: str
    origin: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `interactions`."""
        table = self.interactions
        return table.columns if isinstance(table, Scan) else table.column_names
