"""Inspection of data: problems in a user's files, with file and line of each row, and statistics of a data set."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.clean import clean
from llmrec.data.columns import EARLIEST, LOOSELY, as_plain, as_text, loosely, read_times, try_cast
from llmrec.data.dataset import Dataset
from llmrec.data.raw import BadKind
from llmrec.data.recipe_generator import count_with_text
from llmrec.data.sources import read
from llmrec.data.tables import FileTable, read_table
from llmrec.data.user_files import files, read_files
from llmrec.errors import DataError
from llmrec.recipe import Data

SHOWN = 5
_LONG = 512  # characters of a field that items are described with; what is beyond is cut
_LEFT_OUT: dict[BadKind, str] = {
    "missing": "row(s) lack an id, a time or a rating",
    "contradiction": "row(s) contradict the first row of their item",
    "unparsed": "row(s) have a value that is not of its column's kind",
    "malformed": "row(s) cannot be read (fields too many or too few, a quote without its end, no JSON)",
}


@dataclass(frozen=True)
class Problem:
    """One kind of problem: what is wrong and what to do, how many rows have it, and the first of their places."""

    kind: str
    words: str
    count: int
    places: list[str]


@dataclass(frozen=True)
class ValidationReport:
    """The result of a check: problems, and notes on what is merely worth knowing."""

    problems: list[Problem]
    notes: list[str]


def check(data: Data, text: list[str]) -> ValidationReport:
    """Schema for everything that a run would refuse, drop, or misunderstand. `text` are columns that describe an item.

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
    key = columns.item_key or columns.item_id
    item, user = as_text(log.table[columns.item_id]), as_text(log.table[columns.user_id])
    keys = as_text(items.table[key])
    found: list[Problem | None] = []
    for kind, words in _LEFT_OUT.items():
        rows = [str(row) for row in raw.dropped if row.kind == kind]
        if rows:
            words += "; a run leaves them out if data.max_bad_rows allows"
            found.append(Problem(kind, words, len(rows), rows[:SHOWN]))
    for rows_of in (log, items):
        if told := rows_of.dialect.not_utf8:
            words = "file is not UTF-8; save it as UTF-8 to be sure of every letter"
            found.append(Problem("encoding", words, 1, told))
    found += [_mixed(rows_of, text) for rows_of in (log, items)]
    if columns.timestamp:
        found.append(_repeated(log, user, item, columns.timestamp))
    found += [_short(user), _unknown(log, item, keys)]
    theirs = {"item_id": key, "title": columns.title or "title"}
    found += _texts(items, keys, [theirs.get(name, name) for name in text])
    notes = [note for rows_of in (log, items) for note in rows_of.dialect.notes if note not in rows_of.dialect.not_utf8]
    if columns.timestamp:
        times = read_times(log.table[columns.timestamp], log.path.name, columns.timestamp, data.day_first)
        ends = pc.min_max(times.seconds).as_py()
        span = "" if ends["min"] is None else f", from {_day(ends['min'])} to {_day(ends['max'])}"
        notes.append(f"{log.path.name}: '{columns.timestamp}' holds {times.words}{span}")
        found.append(_odd_times(log, times.seconds, columns.timestamp))
    return ValidationReport([problem for problem in found if problem], notes + _counts(user, item, keys))


def _problem(kind: str, words: str, rows: FileTable, bad: np.ndarray, told: Iterable[str] = ()) -> Problem | None:
    """A problem of some rows (ascending numbers) of a file; `told` says what the first of them hold."""
    if not len(bad):
        return None
    places = rows.places(bad[:SHOWN].tolist())
    lines = [f"{place}: {value}" for place, value in zip(places, told, strict=True)] if told else places
    return Problem(kind, words, len(bad), lines)


def _where(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _mixed(rows: FileTable, text: list[str]) -> Problem | None:
    """The first column that is nearly all numbers, and where it is not."""
    for name in rows.table.column_names:
        column = rows.table[name]
        if name in text or not pa.types.is_string(column.type):
            continue
        filled = pc.is_valid(as_text(column))
        odd = _where(pc.and_(filled, pc.is_null(try_cast(column, "DOUBLE"))))
        if 0 < len(odd) <= 0.1 * (pc.sum(filled).as_py() or 0):
            told = [f"{name} is '{column[int(row)]}'" for row in odd[:SHOWN]]
            return _problem("mixed", f"value(s) of '{name}' are no numbers, unlike the rest", rows, odd, told)
    return None


def _repeated(log: FileTable, user: pa.ChunkedArray, item: pa.ChunkedArray, timestamp: str) -> Problem | None:
    """FileTable written twice; without times, buying twice would look just like that."""
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
    """No user has enough interactions to hold one out."""
    counted = [(one["values"], one["counts"]) for one in pc.value_counts(user.drop_null()).to_pylist()]
    if any(count >= 3 for _, count in counted):
        return None
    words = "user(s), and none has the 3 interactions that one to learn from, one to validate and one to test by take"
    return Problem("short", words, len(counted), [f"user '{name}': {count}" for name, count in counted[:SHOWN]])


def _unknown(log: FileTable, item: pa.ChunkedArray, keys: pa.ChunkedArray) -> Problem | None:
    unknown = pc.and_(pc.is_valid(item), pc.invert(pc.is_in(item, value_set=pc.unique(keys))))
    bad = _where(unknown)
    if not len(bad):
        return None
    missed = pc.unique(item.filter(pc.fill_null(unknown, False)))
    alike = int(_where(pc.is_in(loosely(missed), value_set=pc.unique(loosely(keys)))).size)
    hint = f" ({alike} would be known but for {LOOSELY})" if alike else ""
    words = f"interaction(s) have items that the catalogue lacks, {len(missed)} item(s) in all{hint}; they have no text"
    return _problem("unknown", words, log, bad, [f"item '{item[int(row)]}'" for row in bad[:SHOWN]])


def _texts(items: FileTable, keys: pa.ChunkedArray, text: list[str]) -> list[Problem | None]:
    lengths = np.array([[len(value) for value in as_plain(items.table[name])] for name in text]).max(axis=0)
    bad = np.flatnonzero((lengths == 0) & pc.is_valid(keys).to_numpy(zero_copy_only=False))
    told = [f"item '{keys[int(row)]}'" for row in bad[:SHOWN]]
    words = f"item(s) have no text in {', '.join(text)}; add some, or set items.missing_text=item-id"
    long = np.flatnonzero(lengths > _LONG)
    sizes = [f"{lengths[row]} characters" for row in long[:SHOWN]]
    cut = f"item(s) have a text of more than {_LONG} characters; what is beyond is cut off"
    return [_problem("textless", words, items, bad, told), _problem("long", cut, items, long, sizes)]


def _odd_times(log: FileTable, seconds: pa.ChunkedArray, name: str) -> Problem | None:
    tomorrow = int(datetime.datetime.now(datetime.UTC).timestamp()) + 86400
    odd = _where(pc.or_(pc.less(seconds, EARLIEST), pc.greater(seconds, tomorrow)))
    told = [f"{name} '{log.table[name][int(row)]}' is read as {_day(seconds[int(row)].as_py())}" for row in odd[:SHOWN]]
    return _problem("times", "time(s) lie before 1990 or in the future; is it the right column?", log, odd, told)


def _day(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds from 1970"


def _counts(user: pa.ChunkedArray, item: pa.ChunkedArray, keys: pa.ChunkedArray) -> list[str]:
    """Notes on counts."""
    counts = pc.value_counts(user.drop_null()).field("counts").to_numpy()
    known = pc.unique(keys).drop_null()
    never = len(known) - len(_where(pc.is_in(known, value_set=pc.unique(item))))
    notes = [f"{len(counts)} users, {len(known)} items, {len(user)} interactions"]
    if (counts < 3).any():
        notes.append(f"{int((counts < 3).sum())} users have fewer than 3 interactions: trained on, never tested")
    if never:
        notes.append(f"{never} items have no interaction: they are recommended by their text alone")
    return notes


def load_cleaned(settings: Data, seed: int) -> tuple[Dataset, str]:
    """What a recipe reads, cleaned and split as a run would, and the unit of its times; errors as of these."""
    raw = read(settings)
    found = clean(raw, settings, seed)
    return Dataset(found.interactions, found.items), raw.unit


def statistics(dataset: Dataset, text: list[str], unit: str) -> dict[str, Any]:
    """Statistics of a data set by name. `text` are columns that describe an item; times are "seconds" or "position".

    Raises:
        DataError: the items have no such column.
    """
    lengths, items = dataset.histories.lengths, dataset.items
    seen = _events_of_items(dataset)
    lacking = [name for name in text if name not in items.column_names]
    if lacking:
        raise DataError(f"items.text names {', '.join(lacking)}, but items have: {', '.join(items.column_names)}")
    span = "the order of the file or source"
    if unit == "seconds":
        span = " to ".join(_day(end) for end in pc.min_max(dataset.interactions["timestamp"]).as_py().values())
    return {
        "users": len(dataset.histories),
        "items": dataset.n_items,
        "interactions": dataset.interactions.num_rows,
        "density": f"{len(dataset.histories.items) / (len(lengths) * dataset.n_items):.2%}",
        "interactions of a user": _spread(lengths),
        "interactions of an item": _spread(seen),
        "items never seen": int((seen == 0).sum()),
        "users tested": len(np.unique(dataset.cases("test").users)),
        "time": span,
        "items with text": f"{count_with_text(items, text)} of {dataset.n_items} ({', '.join(text)})",
        "columns of items": ", ".join(items.column_names),
    }


def long_tail(dataset: Dataset) -> list[float]:
    """Shares of all interactions that each tenth of the items has, most popular first; they sum to 1."""
    seen = np.sort(_events_of_items(dataset))[::-1]
    tenths = np.arange(len(seen)) * 10 // len(seen)
    return [round(float(share), 4) for share in np.bincount(tenths, weights=seen, minlength=10) / seen.sum()]


def _events_of_items(dataset: Dataset) -> np.ndarray:
    return np.bincount(dataset.histories.items, minlength=dataset.n_items)


def _spread(counts: np.ndarray) -> str:
    low, middle, high = np.percentile(counts, [5, 50, 95]).astype(int)
    return f"{middle} in the middle, {low} to {high} for nine in ten, {counts.max()} at most"
