"""Validate a user's files, with file and line of each problem, and compute statistics of a data set."""

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
from llmrec.data.columns import EARLIEST, ID_VARIANTS, as_plain, as_text, normalise_ids, read_times, try_cast
from llmrec.data.dataset import Dataset
from llmrec.data.raw import BadKind
from llmrec.data.recipe_generator import count_with_text
from llmrec.data.sources import read
from llmrec.data.tables import FileTable, read_table
from llmrec.data.user_files import files, read_files
from llmrec.errors import DataError
from llmrec.recipe import Data

SHOWN = 5
_LONG = 512  # characters of a text field that are used
_DROPPED: dict[BadKind, str] = {
    "missing": "row(s) without an id, a time or a rating",
    "contradiction": "row(s) differ from the first row of their item",
    "unparsed": "row(s) with a value that does not parse",
    "malformed": "row(s) cannot be read (too many or too few fields, an open quote, not JSON)",
}


@dataclass(frozen=True)
class Problem:
    """A kind of problem: description with remedy, number of rows, and the places of the first rows."""

    kind: str
    message: str
    count: int
    places: list[str]


@dataclass(frozen=True)
class ValidationReport:
    """Problems and other notes on a user's files."""

    problems: list[Problem]
    notes: list[str]


def check(data: Data, text: list[str]) -> ValidationReport:
    """Find everything that a run would refuse, drop or misread. `text`: the text columns of items.

    Raises:
        DataError: a file cannot be read or lacks a column, or a pattern matches several files.
    """
    assert data.interactions and data.items
    for name in (data.interactions, data.items):
        if len(files(name)) > 1:
            raise DataError(
                f"{name} matches {len(files(name))} files. Check them one by one: llmrec data check LOG ITEMS"
            )
    raw = read_files(data.model_copy(update={"max_bad_rows": 1 << 40}), quiet=True)
    log, items = (read_table(files(name)[0], data.delimiter, data.encoding) for name in (data.interactions, data.items))
    columns = data.columns
    key = columns.item_key or columns.item_id
    item, user = as_text(log.table[columns.item_id]), as_text(log.table[columns.user_id])
    keys = as_text(items.table[key])
    problems: list[Problem | None] = []
    for kind, message in _DROPPED.items():
        rows = [str(row) for row in raw.dropped if row.kind == kind]
        if rows:
            message += "; a run drops them if data.max_bad_rows allows"
            problems.append(Problem(kind, message, len(rows), rows[:SHOWN]))
    for file in (log, items):
        if file.format.not_utf8:
            message = "file is not UTF-8; save it as UTF-8, so that every letter is right"
            problems.append(Problem("encoding", message, 1, [file.format.not_utf8]))
    problems += [_mixed(file, text) for file in (log, items)]
    if columns.timestamp:
        problems.append(_repeated(log, user, item, columns.timestamp))
    problems += [_short(user), _unknown(log, item, keys)]
    file_names = {"item_id": key, "title": columns.title or "title"}
    problems += _texts(items, keys, [file_names.get(name, name) for name in text])
    notes = log.format.notes + items.format.notes
    if columns.timestamp:
        times = read_times(log.table[columns.timestamp], log.path.name, columns.timestamp, data.day_first)
        ends = pc.min_max(times.seconds).as_py()
        span = "" if ends["min"] is None else f", from {_day(ends['min'])} to {_day(ends['max'])}"
        notes.append(f"{log.path.name}: '{columns.timestamp}' holds {times.words}{span}")
        problems.append(_odd_times(log, times.seconds, columns.timestamp))
    return ValidationReport([problem for problem in problems if problem], notes + _counts(user, item, keys))


def _problem(kind: str, message: str, file: FileTable, bad: np.ndarray, details: Iterable[str] = ()) -> Problem | None:
    """Make a problem of rows (ascending numbers) of a file; `details` describe the first of them."""
    if not len(bad):
        return None
    places = file.places(bad[:SHOWN].tolist())
    lines = [f"{place}: {value}" for place, value in zip(places, details, strict=True)] if details else places
    return Problem(kind, message, len(bad), lines)


def _where(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _mixed(rows: FileTable, text: list[str]) -> Problem | None:
    """Find the first column with at least 90 % numbers, and its other values."""
    for name in rows.table.column_names:
        column = rows.table[name]
        if name in text or not pa.types.is_string(column.type):
            continue
        filled = pc.is_valid(as_text(column))
        bad = _where(pc.and_(filled, pc.is_null(try_cast(column, "DOUBLE"))))
        if 0 < len(bad) <= 0.1 * (pc.sum(filled).as_py() or 0):
            details = [f"{name} is '{column[int(row)]}'" for row in bad[:SHOWN]]
            return _problem("mixed", f"value(s) of '{name}' are not numbers, unlike the others", rows, bad, details)
    return None


def _repeated(log: FileTable, user: pa.ChunkedArray, item: pa.ChunkedArray, timestamp: str) -> Problem | None:
    """Find duplicate rows; only if there are times, since repeated events look the same without."""
    times = pc.cast(log.table[timestamp], pa.string())
    db = duckdb.connect()
    db.register("log", pa.table({"u": user, "i": item, "t": times, "place": pa.array(range(len(user)), pa.int64())}))
    repeated = db.sql(
        """SELECT place FROM (SELECT place, row_number() OVER (PARTITION BY u, i, t ORDER BY place) AS copy FROM log
           WHERE u IS NOT NULL AND i IS NOT NULL) WHERE copy > 1 ORDER BY place"""
    ).fetchnumpy()["place"]
    message = "interaction(s) are duplicates (same user, item and time); a run keeps one of each"
    return _problem("repeated", message, log, np.asarray(repeated))


def _short(user: pa.ChunkedArray) -> Problem | None:
    """Report if no user has the three interactions that leave-one-out needs."""
    counted = [tuple(pair.values()) for pair in pc.value_counts(user.drop_null()).to_pylist()]
    if any(count >= 3 for _, count in counted):
        return None
    message = "user(s), and none has 3 interactions: one for training, one for validation and one for test"
    return Problem("short", message, len(counted), [f"user '{name}': {count}" for name, count in counted[:SHOWN]])


def _unknown(log: FileTable, item: pa.ChunkedArray, keys: pa.ChunkedArray) -> Problem | None:
    unknown = pc.and_(pc.is_valid(item), pc.invert(pc.is_in(item, value_set=pc.unique(keys))))
    bad = _where(unknown)
    if not len(bad):
        return None
    missed = pc.unique(item.filter(pc.fill_null(unknown, False)))
    alike = int(_where(pc.is_in(normalise_ids(missed), value_set=pc.unique(normalise_ids(keys)))).size)
    hint = f" ({alike} would be known without {ID_VARIANTS})" if alike else ""
    message = f"interaction(s) with items that the catalogue lacks, {len(missed)} item(s) in all{hint}; without text"
    return _problem("unknown", message, log, bad, [f"item '{item[int(row)]}'" for row in bad[:SHOWN]])


def _texts(items: FileTable, keys: pa.ChunkedArray, text: list[str]) -> list[Problem | None]:
    lengths = np.array([[len(value) for value in as_plain(items.table[name])] for name in text]).max(axis=0)
    bad = np.flatnonzero((lengths == 0) & pc.is_valid(keys).to_numpy(zero_copy_only=False))
    ids = [f"item '{keys[int(row)]}'" for row in bad[:SHOWN]]
    missing = f"item(s) have no text in {', '.join(text)}; add text, or set items.missing_text=item-id"
    long = np.flatnonzero(lengths > _LONG)
    sizes = [f"{lengths[row]} characters" for row in long[:SHOWN]]
    cut = f"item(s) have a text of more than {_LONG} characters; the rest is cut off"
    return [_problem("textless", missing, items, bad, ids), _problem("long", cut, items, long, sizes)]


def _odd_times(log: FileTable, seconds: pa.ChunkedArray, name: str) -> Problem | None:
    tomorrow = int(datetime.datetime.now(datetime.UTC).timestamp()) + 86400
    bad = _where(pc.or_(pc.less(seconds, EARLIEST), pc.greater(seconds, tomorrow)))
    details = [
        f"{name} '{log.table[name][int(row)]}' is read as {_day(seconds[int(row)].as_py())}" for row in bad[:SHOWN]
    ]
    return _problem("times", "time(s) before 1990 or in the future; is it the right column?", log, bad, details)


def _day(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds from 1970"


def _counts(user: pa.ChunkedArray, item: pa.ChunkedArray, keys: pa.ChunkedArray) -> list[str]:
    counts = pc.value_counts(user.drop_null()).field("counts").to_numpy()
    known = pc.unique(keys).drop_null()
    never = len(known) - len(_where(pc.is_in(known, value_set=pc.unique(item))))
    notes = [f"{len(counts)} users, {len(known)} items, {len(user)} interactions"]
    if (counts < 3).any():
        notes.append(f"{int((counts < 3).sum())} users have fewer than 3 interactions: used for training only")
    if never:
        notes.append(f"{never} items have no interaction: they can be recommended only by their text")
    return notes


def load_cleaned(settings: Data, seed: int) -> tuple[Dataset, str]:
    """Read, clean and split the data of a recipe, in memory; also return the unit of timestamps."""
    raw = read(settings)
    cleaned = clean(raw, settings, seed)
    return Dataset(cleaned.interactions, cleaned.items), raw.unit


def statistics(dataset: Dataset, text: list[str], unit: str) -> dict[str, Any]:
    """Return statistics of a data set. `text`: text columns of items; `unit`: of timestamps.

    Raises:
        DataError: the items lack a text column.
    """
    lengths, items = dataset.histories.lengths, dataset.items
    seen = _events_of_items(dataset)
    lacking = [name for name in text if name not in items.column_names]
    if lacking:
        raise DataError(f"items.text has {', '.join(lacking)}, but items have: {', '.join(items.column_names)}")
    span = "order of the file or source"
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
    """Return the share of interactions of each tenth of the items, most popular first."""
    seen = np.sort(_events_of_items(dataset))[::-1]
    tenths = np.arange(len(seen)) * 10 // len(seen)
    return [round(float(share), 4) for share in np.bincount(tenths, weights=seen, minlength=10) / seen.sum()]


def _events_of_items(dataset: Dataset) -> np.ndarray:
    return np.bincount(dataset.histories.items, minlength=dataset.n_items)


def _spread(counts: np.ndarray) -> str:
    low, middle, high = np.percentile(counts, [5, 50, 95]).astype(int)
    return f"median {middle}, 90 % between {low} and {high}, maximum {counts.max()}"
