"""One column of a user's file: its values as text, numbers or times, and what they are like, whatever its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.errors import DataError

EARLIEST = 631_152_000  # 1990, in seconds: earlier times are mostly dates or units misread
_LATEST = 4_102_444_800  # 2100, in seconds
_ENOUGH = 50_000  # distinct values or rows that are looked at where looking at all would be slow
_PARTED = r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})[./-](?P<year>\d{4})"
_HALF_DAYS = "['%Y-%m-%d %I:%M %p', '%Y-%m-%d %I:%M:%S %p']"
_DAYS = ("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d. %B %Y", "%m %d, %Y", "%a, %d %b %Y")
_NAMED = [f"{day}{time}" for day in _DAYS for time in ("", " %H:%M", " %H:%M:%S")]
_PROSE = r"^[^\d]*\p{L}{3}[^\d]*$|\p{L}.* .*\p{L}"
_LINK = r"^(https?://|www\.|/)|\.(jpe?g|png|gif|webp)$"


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; empty text counts as missing."""
    if pa.types.is_floating(column.type):
        # pandas makes whole numbers floats where one is missing: 123456789012 must not become 1.23456789012e+11.
        with contextlib.suppress(pa.ArrowInvalid):
            column = pc.cast(column, pa.int64())
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def as_plain(column: pa.ChunkedArray) -> list[str]:
    """Values as text without blanks around them; "" where there is none."""
    return [str(value).strip() if value not in (None, []) else "" for value in column.to_pylist()]


def try_cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """A column as another kind of DuckDB's, null where a value cannot be cast."""
    return _select(column, f"TRY_CAST(value AS {kind})")


def _select(column: pa.ChunkedArray, expression: str) -> pa.ChunkedArray:
    # Without its extension for time zones, DuckDB takes times that name no zone as UTC, wherever the machine stands.
    db = duckdb.connect(config={"autoload_known_extensions": "false"})
    db.register("given", pa.table({"value": column}))
    return db.sql(f"SELECT {expression} AS value FROM given").to_arrow_table()["value"]


class DayOrderError(DataError):
    """Dates of which nothing tells whether days or months come first."""


@dataclass(frozen=True)
class ParsedTimes:
    """A column of times: int64 seconds since 1970, null where a value is no time; and in words how it is written."""

    seconds: pa.ChunkedArray
    words: str


def read_times(column: pa.ChunkedArray, file: str, name: str, day_first: bool | None = None) -> ParsedTimes:
    """Read numbers (seconds to microseconds), dates or text (ISO, day-first, month-first, names of months) as times.

    `file` and `name` (of the column) are for messages. `day_first` says whether 3/4/2021 is in April; None finds out.

    Raises:
        DayOrderError: nothing in the column tells days from months.
        DataError: no time in it can be read.
    """
    number = pa.chunked_array([pa.nulls(len(column), pa.float64())])
    if not pa.types.is_temporal(column.type):
        number = try_cast(column, "DOUBLE")
        number = pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
    if number.null_count <= len(number) // 2:
        largest = pc.max(pc.abs(number)).as_py() or 0
        scale, unit = (1, "") if largest < 1e11 else (1e3, "milli") if largest < 1e14 else (1e6, "micro")
        return ParsedTimes(pc.cast(pc.floor(pc.divide(number, scale)), pa.int64()), f"{unit}seconds since 1970")
    moments = try_cast(column, "TIMESTAMPTZ")
    words = "ISO dates" if pa.types.is_string(column.type) else "dates"
    if moments.null_count and pa.types.is_string(column.type):
        parted = pc.extract_regex(column, _PARTED)
        if parted.null_count < len(parted):
            day_first = _day_first(parted, file, name) if day_first is None else day_first
            moments, words = _from_parts(column, day_first), f"{'day' if day_first else 'month'}-first dates"
        else:
            named = f"TRY_CAST(try_strptime(value, {_NAMED}) AS TIMESTAMPTZ)"
            read = _select(column, f"coalesce(TRY_CAST(value AS TIMESTAMPTZ), {named})")
            moments, words = read, "dates" if read.null_count < moments.null_count else words
    if moments.null_count == len(moments):
        first = next((value for value in column.to_pylist() if value is not None), None)
        raise DataError(f"{file}: no value of '{name}' is a time (first: '{first}'). Use numbers or ISO dates.")
    microseconds = pc.cast(pc.cast(moments, pa.int64()), pa.float64())
    return ParsedTimes(pc.cast(pc.floor(pc.divide(microseconds, 1e6)), pa.int64()), words)


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
    """ISO dates and dates of the other order, each read as what it is."""
    year_first = r"\4-\3-\1" if day_first else r"\4-\1-\3"
    turned = f"regexp_replace(value, '{_PARTED}', '{year_first}')"
    plain, halved = f"TRY_CAST({turned} AS TIMESTAMPTZ)", f"try_strptime({turned}, {_HALF_DAYS})"
    return _select(column, f"coalesce({plain}, TRY_CAST({halved} AS TIMESTAMPTZ))")


@dataclass(frozen=True)
class ColumnProfile:
    """What a column is like.

    Attributes:
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
    distinct: int = 0
    filled: float = 0.0
    letters: float = 0.0
    prose: float = 0.0
    links: bool = False
    time_words: str = ""
    order_unknown: bool = False

    @property
    def repeated(self) -> float:
        """How often values come again: 0 where all differ, towards 1 where there are few."""
        return 1 - self.distinct / max(self.rows * self.filled, 1)

    @property
    def identifies(self) -> bool:
        """Whether (nearly) every row has a value of its own, short enough to be an id."""
        return self.kind in ("text", "number") and self.filled >= 0.8 and self.repeated <= 0.2 and self.letters <= 64

    def inside(self, other: ColumnProfile, alike: Callable[[Any], Any] = lambda values: values) -> float:
        """Share of its different values that another column has, as they are or `alike`."""
        mine = pc.unique(self.text).drop_null()[:_ENOUGH]
        return _share(pc.is_in(alike(mine), value_set=alike(pc.unique(other.text))))

    def time_likely(self, named_so: bool) -> float:
        """How likely the column says when something happened: at least 1 where it may, 3 at most."""
        if self.kind == "time":
            return 2.0 + named_so
        return 1.5 + bool(self.time_words) if named_so and self.kind == "number" else 0.0


LOOSELY = "capitals, leading zeros or a final .0"


def loosely(ids: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Ids without what other programs put in or leave out: see `LOOSELY`."""
    return pc.replace_substring_regex(pc.utf8_lower(ids), r"^0+|\.0$", "")


def profile_column(table: pa.Table, name: str) -> ColumnProfile:
    """Schema at one column of a table."""
    column, rows = table[name], table.num_rows
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        text = pa.chunked_array([pa.nulls(rows, pa.string())])
        return ColumnProfile(name, "list", text, rows, rows, 1 - column.null_count / max(rows, 1), prose=1.0)
    text = as_text(column)
    values = text.drop_null()
    if not len(values):
        return ColumnProfile(name, "empty", text, rows)
    sample = values[:_ENOUGH]
    kind, time_words, order_unknown = _kind(column, sample)
    return ColumnProfile(
        name,
        kind,
        text,
        rows,
        distinct=len(pc.unique(values)),
        filled=len(values) / max(rows, 1),
        letters=float(pc.mean(pc.utf8_length(sample)).as_py()),
        prose=_share(pc.match_substring_regex(sample, _PROSE)) if kind == "text" else 0.0,
        links=_share(pc.match_substring_regex(sample, _LINK)) > 0.5,
        time_words=time_words,
        order_unknown=order_unknown,
    )


def _share(hits: pa.ChunkedArray) -> float:
    return float(pc.mean(pc.cast(hits, pa.float64())).as_py() or 0)


def _kind(column: pa.ChunkedArray, sample: pa.ChunkedArray) -> tuple[str, str, bool]:
    """Kind, how times are written, and whether the order of days and months is unknown."""
    if pa.types.is_temporal(column.type):
        return "time", "dates", False
    if pa.types.is_boolean(column.type):
        return "text", "", False
    numbers = try_cast(sample, "DOUBLE")
    if numbers.null_count <= 0.1 * len(sample):
        times = read_times(numbers, "", "")
        seconds = times.seconds.drop_null()
        likely = len(seconds) and pc.min(seconds).as_py() >= EARLIEST and pc.max(seconds).as_py() <= _LATEST
        return "number", times.words if likely else "", False
    try:
        times = read_times(sample, "", "")
    except DayOrderError:
        return "time", "dates", True
    except DataError:
        return "text", "", False
    return ("time", times.words, False) if times.seconds.null_count <= 0.1 * len(sample) else ("text", "", False)
