"""Times as people write them: seconds to microseconds, ISO text, day-first or month-first dates, names of months."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.errors import DataError

_PARTED = r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})[./-](?P<year>\d{4})"
_HALF_DAYS = "['%Y-%m-%d %I:%M %p', '%Y-%m-%d %I:%M:%S %p']"
_DAYS = ("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d. %B %Y", "%m %d, %Y", "%a, %d %b %Y")
_NAMED = [f"{day}{time}" for day in _DAYS for time in ("", " %H:%M", " %H:%M:%S")]


class DayOrderError(DataError):
    """Dates of which nothing tells whether days or months come first."""


@dataclass(frozen=True)
class Times:
    """A column of times that was read.

    Attributes:
        seconds: int64 since 1970, null where a value is no time.
        words: how they were written.
    """

    seconds: pa.ChunkedArray
    words: str


def read_times(column: pa.ChunkedArray, file: str, name: str, day_first: bool | None = None) -> Times:
    """Times as whole seconds since 1970, from numbers, dates or text.

    Args:
        column: as the file has it.
        file, name: of the file and the column, for messages.
        day_first: whether 3/4/2021 is in April; found out from the column where None.

    Raises:
        DayOrderError: nothing in the column tells days from months.
        DataError: no time in it can be read.
    """
    number = pa.chunked_array([pa.nulls(len(column), pa.float64())])
    if not pa.types.is_temporal(column.type):
        number = try_cast(column, "DOUBLE")
        number = pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
    if number.null_count <= len(number) // 2:
        return _from_numbers(number)
    moments = try_cast(column, "TIMESTAMPTZ")
    words = "ISO dates" if pa.types.is_string(column.type) else "dates"
    if moments.null_count and pa.types.is_string(column.type):
        parted = pc.extract_regex(column, _PARTED)
        if parted.null_count < len(parted):
            day_first = _day_first(parted, file, name) if day_first is None else day_first
            moments, words = _from_parts(column, day_first), f"{'day' if day_first else 'month'}-first dates"
        else:
            named = f"TRY_CAST(try_strptime(value, {_NAMED}) AS TIMESTAMPTZ)"
            read = _ask(column, f"coalesce(TRY_CAST(value AS TIMESTAMPTZ), {named})")
            moments, words = read, "dates" if read.null_count < moments.null_count else words
    if moments.null_count == len(moments):
        first = next((value for value in column.to_pylist() if value is not None), None)
        raise DataError(f"{file}: no value of '{name}' is a time (first: '{first}'). Use numbers or ISO dates.")
    return Times(
        pc.cast(pc.floor(pc.divide(pc.cast(pc.cast(moments, pa.int64()), pa.float64()), 1e6)), pa.int64()), words
    )


def try_cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """A column as another kind of DuckDB's, null where a value cannot be cast."""
    return _ask(column, f"TRY_CAST(value AS {kind})")


def _ask(column: pa.ChunkedArray, expression: str) -> pa.ChunkedArray:
    # Without its extension for time zones, DuckDB takes times that name no zone as UTC, wherever the machine stands.
    db = duckdb.connect(config={"autoload_known_extensions": "false"})
    db.register("given", pa.table({"value": column}))
    return db.sql(f"SELECT {expression} AS value FROM given").to_arrow_table()["value"]


def _from_numbers(number: pa.ChunkedArray) -> Times:
    largest = pc.max(pc.abs(number)).as_py() or 0
    scale, words = (1, "") if largest < 1e11 else (1e3, "milli") if largest < 1e14 else (1e6, "micro")
    return Times(pc.cast(pc.floor(pc.divide(number, scale)), pa.int64()), f"{words}seconds since 1970")


def _day_first(parted: pa.ChunkedArray, file: str, name: str) -> bool:
    """Whether days come before months: dots say so, and so does a number above 12."""
    parts = parted.combine_chunks()
    if "." in set(parts.field("mark").unique().to_pylist()):
        return True
    first, second = (pc.max(pc.cast(parts.field(key), pa.int64())).as_py() for key in ("first", "second"))
    if (first > 12) == (second > 12):
        example = next(part for part in parts.to_pylist() if part)
        raise DayOrderError(
            f"{file}: nothing in '{name}' tells days from months (such as {example['first']}{example['mark']}"
            f"{example['second']}{example['mark']}{example['year']}). Say data.day_first=true or data.day_first=false"
        )
    return bool(first > 12)


def _from_parts(column: pa.ChunkedArray, day_first: bool) -> pa.ChunkedArray:
    """Rows of ISO dates and rows of the other order, each read as what it is."""
    year_first = r"\4-\3-\1" if day_first else r"\4-\1-\3"
    turned = f"regexp_replace(value, '{_PARTED}', '{year_first}')"
    plain, halved = f"TRY_CAST({turned} AS TIMESTAMPTZ)", f"try_strptime({turned}, {_HALF_DAYS})"
    return _ask(column, f"coalesce({plain}, TRY_CAST({halved} AS TIMESTAMPTZ))")
