"""Databases in memory that spill to a temporary folder ($TMPDIR), so that a log may be larger than memory."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import duckdb

_numbers = itertools.count()


def database() -> duckdb.DuckDBPyConnection:
    """A new one. `LLMREC_MEMORY` is how many GiB it may hold, four fifths of the machine otherwise.

    DuckDB makes the temporary folder when it is needed, and removes it.
    """
    folder = Path(tempfile.gettempdir()) / f"llmrec-{os.getpid()}-{next(_numbers)}"
    # Every order that matters is asked for, so DuckDB need not keep that of the files.
    db = duckdb.connect(config={"temp_directory": str(folder), "preserve_insertion_order": "false"})
    if limit := os.environ.get("LLMREC_MEMORY"):
        db.execute(f"SET memory_limit = '{float(limit)}GiB'")
    return db
