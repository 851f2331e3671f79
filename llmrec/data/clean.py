"""Cleaning, ordering and splitting, in DuckDB: one SQL statement for each rule, a reason for every row dropped.

Ids become numbers first, so that a hundred million rows are a table of integers; `store.database` spills what does not
fit into memory.
"""

from __future__ import annotations

import datetime
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data import splits
from llmrec.data.raw import BadRow, Raw, Scan
from llmrec.data.store import database
from llmrec.errors import DataError
from llmrec.recipe import Data

TEXTS = ("review", "summary", "explanation")
"""Words that an event may come with. They stay where they were read until the order of events is known."""


_PLAIN = "DICTIONARY_SIZE_LIMIT 16000"  # of words, all different, DuckDB would build large dictionaries and drop them


class Cleaned:
    """Interactions in history order with their split, the catalogue's rows, and what each rule dropped.

    Attributes:
        dropped: rule → rows.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, query: str, dropped: dict[str, int]) -> None:
        self._db = db
        self._query = query
        self.dropped = dropped

    @cached_property
    def interactions(self) -> pa.Table:
        """Sorted by user, then history order (oldest first); column split: train | valid | test."""
        return self._db.sql(self._query).to_arrow_table()

    @cached_property
    def items(self) -> pa.Table:
        """One row an item id, sorted by item id (numbers as numbers)."""
        return self._db.sql("SELECT * EXCLUDE (i) FROM catalogue ORDER BY i").to_arrow_table()

    def save(self, folder: Path) -> None:
        """Write `interactions.parquet`, `items.parquet` and `dropped.parquet`, interactions without holding them."""
        self._copy(self._query, folder / "interactions.parquet")
        pq.write_table(self.items, folder / "items.parquet")
        dropped = """SELECT user_id, item_id, timestamp, reason FROM dropped LEFT JOIN people USING (u)
                     LEFT JOIN things USING (i) ORDER BY dropped.number, user_id, item_id, timestamp"""
        self._copy(dropped, folder / "dropped.parquet")

    def _copy(self, query: str, path: Path) -> None:
        name = str(path.absolute()).replace("'", "''")  # a name that begins with ~ would be a home to DuckDB
        self._db.execute(f"COPY ({query}) TO '{name}' (FORMAT parquet, COMPRESSION snappy, {_PLAIN})")


def clean(raw: Raw, data: Data, seed: int) -> Cleaned:
    """Drop what the recipe says, order each history, split.

    Events of one user with the same timestamp are ordered by a hash of seed, user and item: seeded random, whatever
    the order of the file. (Ordering them by item id would move HR@10 on MovieLens 100K from about .08 to .18.)

    Raises:
        DataError: nothing is left (which rule emptied it), items contradict one another, or see `splits.expression`.
    """
    texts = [name for name in TEXTS if name in raw.columns]
    db = _registered(raw, bool(texts))
    _refuse_contradicting_items(db)
    rules = _Rules(db)
    rules.malformed(raw.dropped)
    extras: list[str] = [name for name in ("rating", "part") if name in raw.columns]
    _number(db, extras, texts)
    rules.repeated()
    _apply(rules, raw, data, seed)
    if rules.left == 0:
        raise DataError(f"no interactions are left after cleaning: {rules.story()}. Loosen the rule in `data:`.")
    _catalogue(db, data, rules)
    return Cleaned(db, _placed(db, data, seed, raw.unit, extras, texts), rules.counts)


def _apply(rules: _Rules, raw: Raw, data: Data, seed: int) -> None:
    if data.since or data.until:
        if raw.unit != "seconds":
            raise DataError("data.since and data.until need clock times; these timestamps are only positions.")
        if data.since:
            rules.drop(f"events before {data.since}", f"timestamp < {_seconds(data.since)}")
        if data.until:
            rules.drop(f"events from {data.until} on", f"timestamp >= {_seconds(data.until)}")
    if data.min_rating is not None:
        if "rating" not in raw.columns:
            raise DataError("data.min_rating: the interactions have no rating. Name it: data.columns.rating=NAME")
        rules.drop(f"events rated below {data.min_rating:g}", f"rating < {data.min_rating}")
    if data.min_text:
        title = "title" if "title" in raw.items.column_names else "NULL"
        long = f"SELECT item_id FROM raw_items WHERE length(trim({title})) >= {data.min_text}"
        short = f"i IN (SELECT i FROM things WHERE item_id NOT IN ({long}))"
        rules.drop(f"items with a title of fewer than {data.min_text} characters", short)
    if data.max_users:
        kept = f"""SELECT u FROM (SELECT DISTINCT u FROM events) JOIN people USING (u)
                   ORDER BY md5(concat('{seed}', '|', user_id)) LIMIT {data.max_users}"""
        rules.drop("users outside the sample", f"u NOT IN ({kept})")
    if data.core > 1:
        rules.core(data.core)


class _Rules:
    """Takes rows out of `events` and writes them, with the reason, into `dropped`."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self.db = db
        self.counts: dict[str, int] = {}
        db.execute("CREATE TABLE dropped (u INTEGER, i INTEGER, timestamp BIGINT, reason VARCHAR, number INTEGER)")

    @property
    def left(self) -> int:
        """Events that are still there."""
        return int(self.db.execute("SELECT count(*) FROM events").fetchall()[0][0])

    def story(self) -> str:
        """What each rule dropped, in words."""
        told = [f"'{reason}' took {count}" for reason, count in self.counts.items() if count]
        return ", ".join(told) or "the source has none"

    def malformed(self, rows: list[BadRow]) -> None:
        """Rows that were left out when the files were read."""
        self.counts["malformed rows"] = len(rows)
        if rows:
            self.db.register("lines", pa.table({"line": [str(row) for row in rows]}))
            self.db.execute("INSERT INTO dropped SELECT NULL, NULL, NULL, 'malformed: ' || line, 0 FROM lines")

    def repeated(self) -> None:
        """Copies of an event, of which `_number` kept one."""
        copies = self.db.execute("SELECT sum(copies - 1)::BIGINT FROM events").fetchall()[0][0]
        self.counts["repeated rows"] = int(copies or 0)
        self.db.execute(
            "INSERT INTO dropped SELECT u, i, timestamp, 'repeated rows', 0 FROM events, range(copies - 1) "
            "WHERE copies > 1"
        )
        self.db.execute("ALTER TABLE events DROP COLUMN copies")

    def drop(self, reason: str, condition: str) -> None:
        """Take out the events that meet a condition."""
        number = len(self.counts)
        self.db.execute(
            f"INSERT INTO dropped SELECT u, i, timestamp, $reason, {number} FROM events WHERE {condition}",
            {"reason": reason},
        )
        self.counts[reason] = int(self.db.execute(f"DELETE FROM events WHERE {condition}").fetchall()[0][0])

    def core(self, core: int) -> None:
        """Take out users and items with fewer than `core` events until none is left to take out."""
        reason = f"users or items with fewer than {core} events"
        self.db.execute("CREATE TABLE pairs AS SELECT u, i FROM events")
        count = -1
        while count != (count := int(self.db.execute("SELECT count(*) FROM pairs").fetchall()[0][0])):
            for key in ("i", "u"):
                poor = f"SELECT {key} FROM pairs GROUP BY {key} HAVING count(*) < {core}"
                self.db.execute(f"DELETE FROM pairs WHERE {key} IN ({poor})")
        # Whoever is taken out loses all rows, so what is left is told by who is left.
        for table, key, whole in (("poor_users", "u", "people"), ("poor_items", "i", "things")):
            left = f"SELECT DISTINCT {key} FROM pairs"
            self.db.execute(f"CREATE TABLE {table} AS SELECT {key} FROM {whole} WHERE {key} NOT IN ({left})")
        self.db.execute("DROP TABLE pairs")
        self.drop(reason, "u IN (SELECT u FROM poor_users) OR i IN (SELECT i FROM poor_items)")


def _refuse_contradicting_items(db: duckdb.DuckDBPyConnection) -> None:
    query = """
        SELECT item_id, count(*) FROM (SELECT DISTINCT * FROM raw_items) WHERE item_id IS NOT NULL
        GROUP BY item_id HAVING count(*) > 1 ORDER BY item_id LIMIT 5"""
    twice = db.execute(query).fetchall()
    if twice:
        names = ", ".join(f"'{name}' ({count} times)" for name, count in twice)
        raise DataError(f"the items file has different rows for one item id: {names}. Keep one row for each item.")


def _registered(raw: Raw, with_texts: bool) -> duckdb.DuckDBPyConnection:
    """A database with `raw` and `raw_items`: views, but where words must be found again by their row, `raw` is a table.

    Where the source keeps its rows in a database, what follows goes into a schema of its own there.
    """
    rows = raw.interactions
    if isinstance(rows, Scan) and rows.db:
        db = rows.db.cursor()
        schema = f"cleaned_{len(db.execute('SELECT * FROM duckdb_schemas() WHERE NOT internal').fetchall())}"
        db.execute(f"CREATE SCHEMA {schema}")
        db.execute(f"SET search_path = '{schema},main'")
    else:
        db = database()
        if isinstance(rows, pa.Table):
            db.register("given", rows)
        query = rows.query if isinstance(rows, Scan) else "SELECT * FROM given"
        db.execute(f"CREATE {'TABLE' if with_texts else 'VIEW'} raw AS {query}")
    db.register("raw_items", raw.items)
    return db


def _number(db: duckdb.DuckDBPyConnection, extras: list[str], texts: list[str]) -> None:
    """Make `people`, `things` and `events` (one row for each user, item and time).

    Of copies with different ratings the highest is kept, and with it what else its row says.
    """
    for table, key, name in (("people", "u", "user_id"), ("things", "i", "item_id")):
        also = " UNION SELECT item_id FROM raw_items WHERE item_id IS NOT NULL" if key == "i" else ""
        db.execute(
            f"""CREATE TABLE {table} AS SELECT (row_number() OVER (ORDER BY length({name}), {name}) - 1)::INTEGER {key},
                {name} FROM (SELECT DISTINCT {name} FROM raw{also})"""
        )
    best = "".join(f", max({name}) AS {name}" for name in extras) + (", max(raw.rowid) AS words" if texts else "")
    numbered = "raw JOIN people USING (user_id) JOIN things USING (item_id)"
    db.execute(
        f"""CREATE TABLE events AS SELECT u, i, timestamp, count(*) AS copies{best}
            FROM {numbered} GROUP BY u, i, timestamp"""
    )
    if texts:
        ranked = f"struct_pack({', '.join([*extras, *texts])})"
        db.execute(
            f"""UPDATE events SET words = best.words FROM (
                    SELECT u, i, timestamp, arg_max(raw.rowid, {ranked}) AS words FROM {numbered}
                    SEMI JOIN (SELECT u, i, timestamp FROM events WHERE copies > 1) AS twice USING (u, i, timestamp)
                    GROUP BY u, i, timestamp) AS best
                WHERE events.u = best.u AND events.i = best.i AND events.timestamp = best.timestamp"""
        )


def _catalogue(db: duckdb.DuckDBPyConnection, data: Data, rules: _Rules) -> None:
    """Every item of the catalogue, and every item of the log that the catalogue lacks (with no text)."""
    seen = data.catalogue == "seen" or (data.catalogue is None and data.source.startswith("amazon-reviews"))
    chosen = "i IN (SELECT i FROM events)"
    if not seen:
        chosen += " OR item_id IN (SELECT item_id FROM raw_items)"
        short = [reason for reason in rules.counts if reason.startswith("items with a title")]
        if short:
            chosen = f"({chosen}) AND (i IN (SELECT i FROM events) OR length(trim(title)) >= {data.min_text})"
    db.execute(
        f"""CREATE TABLE catalogue AS SELECT i, things.item_id, raw_items.* EXCLUDE (item_id)
            FROM things LEFT JOIN (SELECT DISTINCT * FROM raw_items) AS raw_items USING (item_id) WHERE {chosen}"""
    )


def _placed(
    db: duckdb.DuckDBPyConnection, data: Data, seed: int, unit: str, extras: list[str], texts: list[str]
) -> str:
    """Put every history in order (table `placed`); returns the query for the interactions with their split."""
    # Few events share their moment with another of their user; only those are worth a hash. Sixteen digits of it sort
    # as all of them do, in a quarter of the memory.
    tie = f"('0x' || substr(md5(concat('{seed}', '|', user_id, '|', item_id)), 1, 16))::UBIGINT"
    db.execute(
        f"""CREATE TABLE ties AS SELECT u, i, timestamp, {tie} AS tie
            FROM events SEMI JOIN (SELECT u, timestamp FROM events GROUP BY u, timestamp HAVING count(*) > 1) AS shared
            USING (u, timestamp) JOIN people USING (u) JOIN things USING (i)"""
    )
    carried = [*extras, "words"] if texts else extras
    db.execute(
        f"""CREATE TABLE placed AS SELECT u, i, timestamp{"".join(f", {name}" for name in carried)},
                row_number() OVER history AS place, count(*) OVER (PARTITION BY u) AS events_of_user
            FROM events LEFT JOIN ties USING (u, i, timestamp)
            WINDOW history AS (PARTITION BY u ORDER BY timestamp, tie, i)"""
    )
    db.execute("DROP TABLE ties")
    db.execute("DROP TABLE events")
    shown = [f"placed.{name}" for name in extras if name != "part"] + [f"raw.{name}" for name in texts]
    found = " JOIN raw ON raw.rowid = placed.words" if texts else ""
    return f"""
        SELECT people.user_id, things.item_id, placed.timestamp{"".join(f", {name}" for name in shown)},
               {splits.expression(db, data, seed, unit)} AS split
        FROM placed JOIN people USING (u) JOIN things USING (i){found} ORDER BY placed.u, placed.place"""


def _seconds(day: str) -> int:
    return int(datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp())
