"""What is wrong with a user's files, in words, with the file and line of each row."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.columns import LOOSELY, loosely
from llmrec.data.own import as_text, files, read_files
from llmrec.data.raw import BadKind, BadRow
from llmrec.data.starter import as_plain
from llmrec.data.tables import Rows, read_table
from llmrec.data.times import read_times, try_cast
from llmrec.errors import DataError
from llmrec.recipe import Data

SHOWN = 5
_LONG = 512  # characters of a field that items are described with; what is beyond is cut
_EARLIEST = 631_152_000  # 1990, in seconds: earlier times are mostly dates or units misread


@dataclass(frozen=True)
class Problem:
    """One kind of problem.

    Attributes:
        kind: a short name.
        words: what is wrong and what becomes of it or what to do.
        count: rows that have it.
        places: the first of them, such as `log.csv, line 7: …`.
    """

    kind: str
    words: str
    count: int
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """What a check found: problems, and notes on what is merely worth knowing."""

    problems: list[Problem]
    notes: list[str]


def check(data: Data, text: list[str]) -> Checked:
    """Look for everything that a run would stumble over, drop, or misunderstand.

    Args:
        data: the files and their columns; its `max_bad_rows` does not matter.
        text: columns that describe an item, by our names.

    Raises:
        DataError: a file cannot be read at all, or lacks a column; or a pattern means several files.
    """
    assert data.interactions and data.items
    for name in (data.interactions, data.items):
        if len(files(name)) > 1:
            raise DataError(
                f"{name} means {len(files(name))} files. Check them one by one: llmrec data check LOG ITEMS"
            )
    raw = read_files(data.model_copy(update={"max_bad_rows": 1 << 40}), quiet=True)
    log, items = (read_table(files(name)[0], data.delimiter, data.encoding) for name in (data.interactions, data.items))
    columns = data.columns
    item, user = as_text(log.table[columns.item_id]), as_text(log.table[columns.user_id])
    keys = as_text(items.table[columns.item_key or columns.item_id])
    found = [
        *_dropped(raw.dropped),
        *(_not_utf8(rows) for rows in (log, items)),
        *(_mixed(rows, text) for rows in (log, items)),
        _repeated(log, user, item, columns.timestamp),
        _short(user),
        _unknown(log, item, keys),
        *_texts(items, keys, [_theirs(name, data) for name in text]),
    ]
    notes = [note for rows in (log, items) for note in rows.dialect.notes if note not in rows.dialect.not_utf8]
    if columns.timestamp:
        times = read_times(log.table[columns.timestamp], log.path.name, columns.timestamp, data.day_first)
        notes.append(f"{log.path.name}: '{columns.timestamp}' holds {times.words}{_range(times.seconds)}")
        found.append(_odd_times(log, times.seconds, columns.timestamp))
    notes += _worth_knowing(user, item, keys)
    return Checked([problem for problem in found if problem], notes)


def _theirs(name: str, data: Data) -> str:
    columns = data.columns
    key = columns.item_key or columns.item_id
    return {"item_id": key, "title": columns.title or "title"}.get(name, name)


_LEFT_OUT: dict[BadKind, str] = {
    "missing": "row(s) lack an id, a time or a rating",
    "contradiction": "row(s) contradict the first row of their item",
    "unparsed": "row(s) have a value that is not of its column's kind",
    "malformed": "row(s) cannot be read (fields too many or too few, a quote without its end, no JSON)",
}


def _dropped(dropped: list[BadRow]) -> Iterable[Problem]:
    """Rows that a run leaves out, by what is wrong with them."""
    for kind, words in _LEFT_OUT.items():
        rows = [str(row) for row in dropped if row.kind == kind]
        if rows:
            yield Problem(kind, f"{words}; a run leaves them out if data.max_bad_rows allows", len(rows), rows[:SHOWN])


def _problem(kind: str, words: str, rows: Rows, bad: np.ndarray, told: Iterable[str] | None = None) -> Problem | None:
    """A problem of some rows of a file, whose numbers are given in ascending order."""
    if not len(bad):
        return None
    places = rows.places(bad[:SHOWN].tolist())
    each = [""] * len(places) if told is None else list(told)
    lines = [f"{place}: {words}" if words else place for place, words in zip(places, each, strict=True)]
    return Problem(kind, words, len(bad), lines)


def _where(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _not_utf8(rows: Rows) -> Problem | None:
    words = "file is not UTF-8; save it as UTF-8 to be sure of every letter"
    return Problem("encoding", words, 1, rows.dialect.not_utf8) if rows.dialect.not_utf8 else None


def _mixed(rows: Rows, text: list[str]) -> Problem | None:
    """The first column that is nearly all numbers, and where it is not."""
    for name in rows.table.column_names:
        column = rows.table[name]
        if name in text or not pa.types.is_string(column.type):
            continue
        filled = pc.is_valid(as_text(column))
        odd = _where(pc.and_(filled, pc.is_null(try_cast(column, "DOUBLE"))))
        whole = pc.sum(filled).as_py() or 0
        if 0 < len(odd) <= 0.1 * whole:
            told = [f"{name} is '{column[int(row)]}'" for row in odd[:SHOWN]]
            return _problem("mixed", f"value(s) of '{name}' are no numbers, unlike the rest", rows, odd, told)
    return None


def _repeated(log: Rows, user: pa.ChunkedArray, item: pa.ChunkedArray, timestamp: str | None) -> Problem | None:
    if timestamp is None:
        return None  # without times, buying twice looks just like a row written twice
    times = pc.cast(log.table[timestamp], pa.string())
    db = duckdb.connect()
    db.register("log", pa.table({"u": user, "i": item, "t": times, "place": pa.array(range(len(user)), pa.int64())}))
    again = db.sql(
        """SELECT place FROM (SELECT place, row_number() OVER (PARTITION BY u, i, t ORDER BY place) AS copy FROM log
           WHERE u IS NOT NULL AND i IS NOT NULL) WHERE copy > 1 ORDER BY place"""
    ).fetchnumpy()["place"]
    words = "interaction(s) are written twice (same user, item and time); a run keeps one of each"
    return _problem("repeated", words, log, np.asarray(again))


def _short(user: pa.ChunkedArray) -> Problem | None:
    """That nothing can be held out of anybody's interactions."""
    counted = [(one["values"], one["counts"]) for one in pc.value_counts(user.drop_null()).to_pylist()]
    if any(count >= 3 for _, count in counted):
        return None
    words = "user(s), and none has the 3 interactions that one to learn from, one to validate and one to test by take"
    return Problem("short", words, len(counted), [f"user '{name}': {count}" for name, count in counted[:SHOWN]])


def _unknown(log: Rows, item: pa.ChunkedArray, keys: pa.ChunkedArray) -> Problem | None:
    unknown = pc.and_(pc.is_valid(item), pc.invert(pc.is_in(item, value_set=pc.unique(keys))))
    bad = _where(unknown)
    if not len(bad):
        return None
    missed = pc.unique(item.filter(pc.fill_null(unknown, False)))
    alike = pc.sum(pc.cast(pc.is_in(loosely(missed), value_set=pc.unique(loosely(keys))), pa.int64())).as_py()
    hint = f" ({alike} would be known but for {LOOSELY})" if alike else ""
    words = f"interaction(s) have items that the catalogue lacks, {len(missed)} item(s) in all{hint}; they have no text"
    return _problem("unknown", words, log, bad, [f"item '{item[int(row)]}'" for row in bad[:SHOWN]])


def _texts(items: Rows, keys: pa.ChunkedArray, text: list[str]) -> list[Problem | None]:
    columns = {name: as_plain(items.table[name]) for name in text}
    empty = np.array([not any(row) for row in zip(*columns.values(), strict=True)])
    bad = np.flatnonzero(empty & pc.is_valid(keys).to_numpy(zero_copy_only=False))
    told = [f"item '{keys[int(row)]}'" for row in bad[:SHOWN]]
    words = f"item(s) have no text in {', '.join(text)}; add some, or set items.missing_text=item-id"
    lengths = np.array([[len(value) for value in values] for values in columns.values()]).max(axis=0)
    long = np.flatnonzero(lengths > _LONG)
    sizes = [f"{lengths[row]} characters" for row in long[:SHOWN]]
    cut = f"item(s) have a text of more than {_LONG} characters; what is beyond is cut off"
    return [_problem("textless", words, items, bad, told), _problem("long", cut, items, long, sizes)]


def _odd_times(log: Rows, seconds: pa.ChunkedArray, name: str) -> Problem | None:
    tomorrow = int(datetime.datetime.now(datetime.UTC).timestamp()) + 86400
    odd = _where(pc.or_(pc.less(seconds, _EARLIEST), pc.greater(seconds, tomorrow)))
    told = [f"{name} '{log.table[name][int(row)]}' is read as {_day(seconds[int(row)].as_py())}" for row in odd[:SHOWN]]
    return _problem("times", "time(s) lie before 1990 or in the future; is it the right column?", log, odd, told)


def _day(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds from 1970"


def _range(seconds: pa.ChunkedArray) -> str:
    ends = pc.min_max(seconds).as_py()
    return "" if ends["min"] is None else f", from {_day(ends['min'])} to {_day(ends['max'])}"


def _worth_knowing(user: pa.ChunkedArray, item: pa.ChunkedArray, keys: pa.ChunkedArray) -> list[str]:
    counts = pc.value_counts(user.drop_null()).field("counts").to_numpy()
    known = pc.unique(keys).drop_null()
    never = len(known) - (pc.sum(pc.cast(pc.is_in(known, value_set=pc.unique(item)), pa.int64())).as_py() or 0)
    notes = [f"{len(counts)} users, {len(known)} items, {len(user)} interactions"]
    if (counts < 3).any():
        notes.append(f"{int((counts < 3).sum())} users have fewer than 3 interactions: trained on, never tested")
    if never:
        notes.append(f"{never} items have no interaction: they are recommended by their text alone")
    return notes
