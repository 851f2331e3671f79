"""Parse and profile one column of a user's file: values as text, numbers or times, independent of its name."""

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
_SAMPLE = 50_000  # distinct values or rows to inspect
_PARTED = r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})[./-](?P<year>\d{4})"
_HALF_DAYS = "['%Y-%m-%d %I:%M %p', '%Y-%m-%d %I:%M:%S %p']"
_DAYS = ("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d. %B %Y", "%m %d, %Y", "%a, %d %b %Y")
_NAMED = [f"{day}{time}" for day in _DAYS for time in ("", " %H:%M", " %H:%M:%S")]
_PROSE = r"^[^\d]*\p{L}{3}[^\d]*$|\p{L}.* .*\p{L}"
_LINK = r"^(https?://|www\.|/)|\.(jpe?g|png|gif|webp)$"


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast ids to text; empty text becomes null."""
    if pa.types.is_floating(column.type):
        # pandas makes whole numbers floats where one is missing: 123456789012 must not become 1.23456789012e+11.
        with contextlib.suppress(pa.ArrowInvalid):
            column = pc.cast(column, pa.int64())
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def as_plain(column: pa.ChunkedArray) -> list[str]:
    """Return values as stripped text; "" for missing values."""
    return [str(value).strip() if value not in (None, []) else "" for value in column.to_pylist()]


def try_cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """Cast a column to a DuckDB type; values that do not parse become null."""
    return _select(column, f"TRY_CAST(value AS {kind})")


def _select(column: pa.ChunkedArray, expression: str) -> pa.ChunkedArray:
    # Without its extension for time zones, DuckDB reads times without a zone as UTC on every machine.
    db = duckdb.connect(config={"autoload_known_extensions": "false"})
    db.register("given", pa.table({"value": column}))
    return db.sql(f"SELECT {expression} AS value FROM given").to_arrow_table()["value"]


class DayOrderError(DataError):
    """Dates whose order of day and month is ambiguous."""


@dataclass(frozen=True)
class ParsedTimes:
    """A column of times: int64 seconds since 1970, null for unparsed values; and a description of the format."""

    seconds: pa.ChunkedArray
    words: str


def read_times(column: pa.ChunkedArray, file: str, name: str, day_first: bool | None = None) -> ParsedTimes:
    """Parse numbers (seconds to microseconds), dates or text (ISO, day-first, month-first, month names) as times.

    Args:
        file, name: of the column, for messages.
        day_first: whether 3/4/2021 is 3 April; detected if None.

    Raises:
        DayOrderError: the order of day and month is ambiguous.
        DataError: no value can be parsed.
    """
    number = pa.chunked_array([pa.nulls(len(column), pa.float64())])
    if not pa.types.is_temporal(column.type):
        number = try_cast(column, "DOUBLE")
        number = pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
    if number.null_count <= len(number) // 2:
        largest = pc.max(pc.abs(number)).as_py() or 0
        scale, unit = (1, "") if largest < 1e11 else (1e3, "milli") if largest < 1e14 else (1e6, "micro")
        return ParsedTimes(pc.cast(pc.floor(pc.divide(number, scale)), pa.int64()), f"{unit}seconds since 1970")
    times = try_cast(column, "TIMESTAMPTZ")
    words = "ISO dates" if pa.types.is_string(column.type) else "dates"
    if times.null_count and pa.types.is_string(column.type):
        parted = pc.extract_regex(column, _PARTED)
        if parted.null_count < len(parted):
            day_first = _day_first(parted, file, name) if day_first is None else day_first
            times, words = _from_parts(column, day_first), f"{'day' if day_first else 'month'}-first dates"
        else:
            named = f"TRY_CAST(try_strptime(value, {_NAMED}) AS TIMESTAMPTZ)"
            read = _select(column, f"coalesce(TRY_CAST(value AS TIMESTAMPTZ), {named})")
            times, words = read, "dates" if read.null_count < times.null_count else words
    if times.null_count == len(times):
        first = next((value for value in column.to_pylist() if value is not None), None)
        raise DataError(f"{file}: no value of '{name}' is a time (the first is '{first}'). Use numbers or ISO dates.")
    microseconds = pc.cast(pc.cast(times, pa.int64()), pa.float64())
    return ParsedTimes(pc.cast(pc.floor(pc.divide(microseconds, 1e6)), pa.int64()), words)


def _day_first(parted: pa.ChunkedArray, file: str, name: str) -> bool:
    """Whether days come before months: decided by dots, or by a number above 12."""
    parts = parted.combine_chunks()
    if "." in set(parts.field("mark").unique().to_pylist()):
        return True
    first, second = (pc.max(pc.cast(parts.field(key), pa.int64())).as_py() for key in ("first", "second"))
    if (first > 12) == (second > 12):
        example = next(part for part in parts.to_pylist() if part)
        raise DayOrderError(
            f"{file}: the order of day and month in '{name}' is ambiguous (such as {example['first']}{example['mark']}"
            f"{example['second']}{example['mark']}{example['year']}). Set data.day_first=true or data.day_first=false"
        )
    return bool(first > 12)


def _from_parts(column: pa.ChunkedArray, day_first: bool) -> pa.ChunkedArray:
    """Parse ISO dates, and dates with the year last in the given order."""
    year_first = r"\4-\3-\1" if day_first else r"\4-\1-\3"
    reordered = f"regexp_replace(value, '{_PARTED}', '{year_first}')"
    plain, halved = f"TRY_CAST({reordered} AS TIMESTAMPTZ)", f"try_strptime({reordered}, {_HALF_DAYS})"
    return _select(column, f"coalesce({plain}, TRY_CAST({halved} AS TIMESTAMPTZ))")


@dataclass(frozen=True)
class ColumnProfile:
    """Statistics of a column.

    Attributes:
        kind: "empty", "list", "number", "time" (dates or ISO text) or "text".
        text: the values as text, empty ones null.
        rows, distinct: number of rows and of distinct values.
        filled: share of rows with a value.
        letters: mean length of a value.
        prose: share of values with a letter and a space, or with three letters in a row and no digit.
        links: whether most values are URLs of pages or images.
        time_words: description of the time format if the column may hold times, otherwise "".
        order_unknown: whether it holds dates with an ambiguous order of day and month.
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
        """1 - distinct values / values: 0 if all values differ."""
        return 1 - self.distinct / max(self.rows * self.filled, 1)

    @property
    def identifies(self) -> bool:
        """Whether nearly all values are distinct and short enough to be ids."""
        return self.kind in ("text", "number") and self.filled >= 0.8 and self.repeated <= 0.2 and self.letters <= 64

    def inside(self, other: ColumnProfile, normalise: Callable[[Any], Any] = lambda values: values) -> float:
        """Share of its distinct values that another column contains, after `normalise`."""
        values = pc.unique(self.text).drop_null()[:_SAMPLE]
        return _share(pc.is_in(normalise(values), value_set=normalise(pc.unique(other.text))))

    def time_likely(self, has_time_name: bool) -> float:
        """Score of being the timestamp: at least 1 if possible, 3 at most."""
        if self.kind == "time":
            return 2.0 + has_time_name
        return 1.5 + bool(self.time_words) if has_time_name and self.kind == "number" else 0.0


ID_VARIANTS = "upper case, leading zeros or a final .0"


def normalise_ids(ids: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Remove the differences of `ID_VARIANTS`, which other programs add or remove."""
    return pc.replace_substring_regex(pc.utf8_lower(ids), r"^0+|\.0$", "")


def profile_column(table: pa.Table, name: str) -> ColumnProfile:
    """Compute the statistics of one column of a table."""
    column, rows = table[name], table.num_rows
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        text = pa.chunked_array([pa.nulls(rows, pa.string())])
        return ColumnProfile(name, "list", text, rows, rows, 1 - column.null_count / max(rows, 1), prose=1.0)
    text = as_text(column)
    values = text.drop_null()
    if not len(values):
        return ColumnProfile(name, "empty", text, rows)
    sample = values[:_SAMPLE]
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
    """Return kind, time format, and whether the order of day and month is ambiguous."""
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
