"""Which events are held out: five ways, each one SQL expression over events in history order."""

from __future__ import annotations

import duckdb

from llmrec.errors import DataError
from llmrec.recipe import Data

MONOTONE = ("leave-one-out", "temporal")
"""Splits in which no training event of a user comes after a held-out one."""

_NAMES = {"train": ("train", "training"), "valid": ("valid", "val", "validation", "dev"), "test": ("test",)}


def expression(db: duckdb.DuckDBPyConnection, data: Data, seed: int, unit: str) -> str:
    """SQL for train | valid | test over the columns u, i, timestamp, place (from 1), events_of_user, part.

    Args:
        db: holds `placed` (those columns), `people` (u, user_id) and `things` (i, item_id).
        data: the recipe's part.
        seed: draws cold items and users.
        unit: of `timestamp`, "seconds" or "position".

    Raises:
        DataError: a temporal split of positions, or a column with other values than the three.
    """
    return {
        "leave-one-out": _leave_one_out,
        "temporal": lambda: _temporal(db, data, unit),
        "cold-items": lambda: _drawn("i", "things", "item_id", data, seed),
        "cold-users": lambda: _drawn("u", "people", "user_id", data, seed),
        "column": lambda: _column(db),
    }[data.split]()


def _leave_one_out() -> str:
    """The last event of each user is the test, the one before validates; users of two or fewer are only trained on."""
    return """CASE WHEN events_of_user < 3 THEN 'train' WHEN place = events_of_user THEN 'test'
                   WHEN place = events_of_user - 1 THEN 'valid' ELSE 'train' END"""


def _temporal(db: duckdb.DuckDBPyConnection, data: Data, unit: str) -> str:
    """One moment for everybody: the latest share is the test, the share before validates.

    As in MiniOneRec, a user's first event is no case (nothing comes before it) and does not count towards the shares.
    Here a moment is never cut in two: events of one timestamp are on one side.
    """
    if unit != "seconds":
        raise DataError(
            "data.split: temporal needs clock times, but these timestamps are only positions in each user's history, "
            "which say nothing across users. Use data.split=leave-one-out"
        )
    cases = int(db.execute("SELECT count(*) FROM placed WHERE place > 1").fetchall()[0][0])
    if not cases:
        raise DataError("data.split: temporal found no user with two events. More interactions are needed.")
    in_time = "SELECT timestamp FROM placed WHERE place > 1 ORDER BY timestamp LIMIT 1 OFFSET"
    firsts = (int(cases * (1 - 2 * data.held_out)), int(cases * (1 - data.held_out)))
    valid, test = (db.execute(f"{in_time} {first}").fetchall()[0][0] for first in firsts)
    return (
        f"CASE WHEN placed.timestamp < {valid} THEN 'train' WHEN placed.timestamp < {test} THEN 'valid' ELSE 'test' END"
    )


def _drawn(key: str, table: str, name: str, data: Data, seed: int) -> str:
    """All events of a seeded share of items, or users, are the test; of as many more, validation.

    Whether one is drawn depends on the seed and its id alone, so a larger log never moves an item across.
    """
    draw = f"('0x' || substr(md5(concat('{seed}|{data.split}|', {name})), 1, 13))::BIGINT / 4503599627370496.0"
    return f"""(SELECT CASE WHEN drawn < {data.held_out} THEN 'test' WHEN drawn < {2 * data.held_out} THEN 'valid'
                       ELSE 'train' END
               FROM (SELECT {key}, {draw} AS drawn FROM {table}) AS draws WHERE draws.{key} = placed.{key})"""


def _column(db: duckdb.DuckDBPyConnection) -> str:
    known = {word: name for name, words in _NAMES.items() for word in words}
    found = [row[0] for row in db.execute("SELECT DISTINCT part FROM placed ORDER BY part").fetchall()]
    other = [value for value in found if str(value).strip().lower() not in known]
    if other:
        raise DataError(
            f"data.columns.split: the column holds {', '.join(repr(value) for value in other[:5])}; "
            f"known are {', '.join(known)}. Write one of them in every row."
        )
    cases = " ".join(f"WHEN '{word}' THEN '{name}'" for word, name in known.items())
    return f"CASE lower(trim(part)) {cases} END"
