"""Cleaning, ordering and splitting, in DuckDB: one SQL statement for each rule, a count for everything dropped."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from llmrec.data.sources import Raw
from llmrec.errors import DataError
from llmrec.recipe import Data


@dataclass
class Cleaned:
    """Interactions in history order with their split, the catalogue's rows, and how many rows each rule dropped.

    Attributes:
        interactions: sorted by user, then history order (oldest first); column split: train | valid | test.
        items: one row an item id, sorted by item id (numbers as numbers).
        dropped: rule → rows.
    """

    interactions: pa.Table
    items: pa.Table
    dropped: dict[str, int]


def clean(raw: Raw, data: Data, seed: int) -> Cleaned:
    """Drop duplicates, sample users, take the k-core, order each history, split leave-one-out.

    Events of one user with the same timestamp are ordered by a hash of seed, user and item: seeded random, whatever
    the order of the file. (Ordering them by item id would move HR@10 on MovieLens 100K from about .08 to .18.)

    Raises:
        DataError: nothing is left (which rule emptied it), or items contradict one another.
    """
    db = duckdb.connect()
    db.register("raw", raw.interactions)
    db.register("raw_items", raw.items)
    _refuse_contradicting_items(db)
    rating = ", rating" if "rating" in raw.interactions.column_names else ""
    db.execute(
        f"""CREATE TABLE events AS SELECT DISTINCT ON (user_id, item_id, timestamp) user_id, item_id, timestamp{rating}
            FROM raw{" ORDER BY rating DESC" if rating else ""}"""
    )
    dropped = {"repeated rows": raw.interactions.num_rows - _count(db), "malformed rows": len(raw.dropped)}
    if data.max_users:
        dropped["users outside the sample"] = _sample_users(db, data.max_users, seed)
    if data.core > 1:
        dropped[f"users or items with fewer than {data.core} events"] = _core(db, data.core)
    if _count(db) == 0:
        worst = max(dropped, key=lambda rule: dropped[rule])
        raise DataError(
            f"no interactions are left after cleaning; most were dropped by the rule '{worst}'. Loosen it in `data:`."
        )
    return Cleaned(_ordered(db, seed, rating), _items(db), dropped)


def _count(db: duckdb.DuckDBPyConnection, table: str = "events") -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def _refuse_contradicting_items(db: duckdb.DuckDBPyConnection) -> None:
    query = """
        SELECT item_id, count(*) FROM (SELECT DISTINCT * FROM raw_items) WHERE item_id IS NOT NULL
        GROUP BY item_id HAVING count(*) > 1 ORDER BY item_id LIMIT 5"""
    twice = db.execute(query).fetchall()
    if twice:
        names = ", ".join(f"'{name}' ({count} times)" for name, count in twice)
        raise DataError(f"the items file has different rows for one item id: {names}. Keep one row for each item.")


def _sample_users(db: duckdb.DuckDBPyConnection, users: int, seed: int) -> int:
    before = _count(db)
    db.execute(
        """DELETE FROM events WHERE user_id NOT IN (
               SELECT user_id FROM (SELECT DISTINCT user_id FROM events)
               ORDER BY md5(concat($seed, '|', user_id)) LIMIT $users)""",
        {"seed": str(seed), "users": users},
    )
    return before - _count(db)


def _core(db: duckdb.DuckDBPyConnection, core: int) -> int:
    """Drop users and items with fewer than `core` events until none is left to drop."""
    first, before = _count(db), -1
    while before != (before := _count(db)):
        for column in ("item_id", "user_id"):
            db.execute(
                f"""DELETE FROM events WHERE {column} IN
                    (SELECT {column} FROM events GROUP BY {column} HAVING count(*) < {core})"""
            )
    return first - before


def _ordered(db: duckdb.DuckDBPyConnection, seed: int, rating: str) -> pa.Table:
    """History order and the leave-one-out split: last event test, last but one validation, the rest training.

    Users of two events or fewer are only trained on.
    """
    query = f"""
        WITH placed AS (
            SELECT *, row_number() OVER history AS place, count(*) OVER (PARTITION BY user_id) AS events_of_user
            FROM events WINDOW history AS
                (PARTITION BY user_id ORDER BY timestamp, md5(concat('{seed}', '|', user_id, '|', item_id))))
        SELECT user_id, item_id, timestamp{rating},
               CASE WHEN events_of_user < 3 THEN 'train' WHEN place = events_of_user THEN 'test'
                    WHEN place = events_of_user - 1 THEN 'valid' ELSE 'train' END AS split
        FROM placed ORDER BY length(user_id), user_id, place"""
    return db.sql(query).to_arrow_table()


def _items(db: duckdb.DuckDBPyConnection) -> pa.Table:
    """Every item of the catalogue, and every item of the log that the catalogue lacks (with no text)."""
    return db.sql(
        """SELECT * FROM (
               SELECT DISTINCT * FROM raw_items WHERE item_id IS NOT NULL
               UNION ALL BY NAME
               SELECT DISTINCT item_id FROM events
               WHERE item_id NOT IN (SELECT item_id FROM raw_items WHERE item_id IS NOT NULL))
           ORDER BY length(item_id), item_id"""
    ).to_arrow_table()
