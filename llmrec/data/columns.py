"""One column of somebody's file: what its values are like, whatever its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.own import as_text
from llmrec.data.times import DayOrderError, read_times, try_cast
from llmrec.errors import DataError

_ENOUGH = 50_000  # distinct values or rows that are looked at where looking at all would be slow
_EARLIEST, _LATEST = 631_152_000, 4_102_444_800  # 1990 to 2100, in seconds


@dataclass(frozen=True)
class Column:
    """What a column is like.

    Attributes:
        name: its name.
        kind: "empty", "list", "number", "time" (dates or ISO text) or "text".
        text: the values as text, empty ones null.
        rows, distinct: how many rows there are and how many different values.
        filled: share of rows with a value.
        letters: mean length of a value.
        prose: share of values with a letter and a space, or with three letters in a row and no digit.
        links: whether the values are addresses of pages or pictures.
        time_words: how times are written in it, where it can hold times; otherwise empty.
        order_unknown: dates of which nothing tells days from months.
    """

    name: str
    kind: str
    text: pa.ChunkedArray
    rows: int
    distinct: int
    filled: float
    letters: float
    prose: float
    links: bool
    time_words: str
    order_unknown: bool = False

    @property
    def repeated(self) -> float:
        """How often values come again: 0 where all differ, towards 1 where there are few."""
        return 1 - self.distinct / max(self.rows * self.filled, 1)

    @property
    def identifies(self) -> bool:
        """Whether (nearly) every row has a value of its own, short enough to be an id."""
        return self.kind in ("text", "number") and self.filled >= 0.8 and self.repeated <= 0.2 and self.letters <= 64

    def inside(self, other: Column, alike: Callable[[Any], Any] = lambda values: values) -> float:
        """Share of its different values that another column has, as they are or `alike`."""
        mine = pc.unique(self.text).drop_null()[:_ENOUGH]
        if not len(mine):
            return 0.0
        theirs = alike(pc.unique(other.text))
        return float(pc.mean(pc.cast(pc.is_in(alike(mine), value_set=theirs), pa.float64())).as_py())

    def time_likely(self, named_so: bool) -> float:
        """How likely the column says when something happened: at least 1 where it may, 3 at most."""
        if self.kind == "time":
            return 2.0 + named_so
        return 1.5 + bool(self.time_words) if named_so and self.kind == "number" else 0.0


LOOSELY = "capitals, leading zeros or a final .0"


def loosely(ids: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Ids without what other programs put in or leave out: see `LOOSELY`."""
    return pc.replace_substring_regex(pc.utf8_lower(ids), r"^0+|\.0$", "")


def column_of(table: pa.Table, name: str) -> Column:
    """Look at one column of a table."""
    column = table[name]
    rows = table.num_rows
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        text = pa.chunked_array([pa.nulls(rows, pa.string())])
        return Column(name, "list", text, rows, rows, 1 - column.null_count / max(rows, 1), 0.0, 1.0, False, "")
    text = as_text(column)
    values = text.drop_null()
    sample = values[:_ENOUGH]
    distinct, filled = len(pc.unique(values)), len(values) / max(rows, 1)
    if not len(values):
        return Column(name, "empty", text, rows, 0, 0.0, 0.0, 0.0, False, "")
    kind, time_words, order_unknown = _kind(column, sample)
    return Column(
        name,
        kind,
        text,
        rows,
        distinct,
        filled,
        float(pc.mean(pc.utf8_length(sample)).as_py()),
        _share(pc.match_substring_regex(sample, r"^[^\d]*\p{L}{3}[^\d]*$|\p{L}.* .*\p{L}")) if kind == "text" else 0.0,
        _share(pc.match_substring_regex(sample, r"^(https?://|www\.|/)|\.(jpe?g|png|gif|webp)$")) > 0.5,
        time_words,
        order_unknown,
    )


def _share(hits: pa.ChunkedArray) -> float:
    return float(pc.mean(pc.cast(hits, pa.float64())).as_py() or 0)


def _kind(column: pa.ChunkedArray, sample: pa.ChunkedArray) -> tuple[str, str, bool]:
    if pa.types.is_temporal(column.type):
        return "time", "dates", False
    if pa.types.is_boolean(column.type):
        return "text", "", False
    numbers = try_cast(sample, "DOUBLE")
    if numbers.null_count <= 0.1 * len(sample):
        read = read_times(numbers, "", "")
        seconds = read.seconds.drop_null()
        likely = len(seconds) and pc.min(seconds).as_py() >= _EARLIEST and pc.max(seconds).as_py() <= _LATEST
        return "number", read.words if likely else "", False
    try:
        read = read_times(sample, "", "")
    except DayOrderError:
        return "time", "dates", True
    except DataError:
        return "text", "", False
    return ("time", read.words, False) if read.seconds.null_count <= 0.1 * len(sample) else ("text", "", False)
