"""Infer the schema of a user's files from column names and values: log, catalogue, and the role of each column.

Every decision is explained in one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.columns import ID_VARIANTS, ColumnProfile, normalise_ids, profile_column, try_cast
from llmrec.data.tables import FileTable, read_table
from llmrec.errors import DataError

# Prefixes of words in column names, lower case.
USER = (
    "user", "customer", "client", "buyer", "member", "visitor", "shopper", "review", "listener", "viewer",
    "person", "patron", "account", "session", "uid", "kunde", "nutzer", "benutzer", "kaeufer", "käufer", "usuario",
)  # fmt: skip
ITEM = (
    "item", "product", "article", "sku", "asin", "isbn", "ean", "movie", "film", "book", "track", "song", "video",
    "game", "recipe", "goods", "content", "listing", "offer", "course", "iid", "pid", "artikel", "produkt",
)  # fmt: skip
TIME = ("time", "date", "ts", "when", "datum", "zeit", "created", "ordered", "at")
RATING = ("rating", "star", "score", "grade", "bewertung")
TITLE = ("title", "name", "label", "titel", "bezeichnung", "nombre", "designation")
TEXT = (
    "brand", "categor", "genre", "author", "artist", "maker", "manufacturer", "type", "kind", "colo", "tag",
    "subject", "year", "material", "style", "department", "topic", "description", "group", "marke", "kategorie",
    "farbe", "autor", "hersteller", "beschreibung", "warengruppe",
)  # fmt: skip
_NOT_AN_ID = (
    *TITLE, *TEXT, *RATING,
    "price", "preis", "quantity", "qty", "menge", "count", "amount", "url", "text", "image", "comment",
)  # fmt: skip

Ask = Callable[[str, str, list[str]], str]  # question, default, choices → answer


@dataclass
class Schema:
    """Roles of files and columns.

    Attributes:
        log, catalogue: the files; the same file if the log also has the columns of items.
        user, item, timestamp, rating: columns of the log.
        key, title, text: columns of the catalogue; `text` begins with the title if there is one.
        day_first: set if the order of day and month is ambiguous.
        why: explanation of each decision.
    """

    log: FileTable
    catalogue: FileTable
    item: str
    key: str
    why: list[str]
    user: str = ""
    timestamp: str | None = None
    rating: str | None = None
    title: str | None = None
    text: list[str] = field(default_factory=list)
    day_first: bool | None = None

    @property
    def one_file(self) -> bool:
        """Whether the log is also the catalogue."""
        return self.log is self.catalogue


def infer_schema(paths: list[Path], ask: Ask = lambda question, default, choices: default) -> Schema:
    """Infer the roles of files and columns. Of more than two files, the pair that fits best is used.

    `ask` is called if two choices score nearly the same; by default the better one is taken.

    Raises:
        DataError: a file cannot be read, or no column of one file identifies the rows of another.
    """
    files = [read_table(path) for path in paths]
    columns = {id(file): [profile_column(file.table, name) for name in file.table.column_names] for file in files}
    schema = _one_file(files[0], columns[id(files[0])], ask) if len(files) == 1 else _pair(files, columns, ask)
    log, catalogue = columns[id(schema.log)], columns[id(schema.catalogue)]
    _refuse_headless(schema.log, log)
    taken = {schema.item, *([schema.key] if schema.one_file else [])}
    schema.user = _user([column for column in log if column.name not in taken], schema, ask)
    schema.timestamp = _time([column for column in log if column.name not in {schema.user, *taken}], schema, ask)
    taken |= {schema.user, schema.timestamp or schema.item}
    schema.rating = _rating([column for column in log if column.name not in taken], schema)
    used = {schema.key, *({schema.user, schema.timestamp, schema.rating} if schema.one_file else ())}
    texts = [column for column in catalogue if column.name not in used]
    if schema.one_file:
        texts = [column for column in texts if _belongs_to_items(schema, column)]
    _choose_texts(texts, schema)
    return schema


def _refuse_headless(rows: FileTable, columns: list[ColumnProfile]) -> None:
    """Refuse a log without a header: half of its column names are numbers or occur among their own values."""
    values = [c for c in columns if re.fullmatch(r"-?[\d.]+", c.name) or pc.any(pc.equal(c.text, c.name)).as_py()]
    if rows.format.delimiter is not None and 2 * len(values) > len(columns):
        raise DataError(
            f"{rows.path.name}, line 1: {', '.join(c.name for c in columns)}: this looks like a row, not like a "
            "header. Put a line with the names of the columns above it, such as user_id, item_id, timestamp."
        )


def words(name: str) -> list[str]:
    """Split a column name into lower-case words: `CustomerID`, `customer_id` and `customer.id` give the same."""
    return [word.lower() for word in re.findall(r"[A-ZÄÖÜ]?[a-zäöüß]+|[A-Z]+(?![a-z])", name)]


def matches_name(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a word of a name starts with one of the prefixes; prefixes of up to 3 letters must be the whole word."""
    return any(word == p or (len(p) > 3 and word.startswith(p)) for word in words(name) for p in prefixes)


def _id_score(column: ColumnProfile, prefixes: tuple[str, ...]) -> float:
    """Whether the name says that the column is an id: 2, 1 if it also matches another role, or 0."""
    return 0.0 if not matches_name(column.name, prefixes) else 1.0 if matches_name(column.name, _NOT_AN_ID) else 2.0


def _pair(files: list[FileTable], columns: dict[int, list[ColumnProfile]], ask: Ask) -> Schema:
    """Find the log, the catalogue, and the two columns that join them."""
    fits = [
        (_fit(column, key, columns[id(log)]), log, catalogue, column, key)
        for log in files
        for catalogue in files
        if log is not catalogue
        for column in columns[id(log)]
        for key in columns[id(catalogue)]
    ]
    best, log, catalogue, column, key = max(fits, key=lambda fit: fit[0])
    if best <= 0:
        names = " and ".join(file.path.name for file in files)
        alike = [(c.name, key.name) for *_, c, key in fits if key.identifies and c.inside(key, normalise_ids) >= 0.5]
        hint = f" ('{alike[0][0]}' and '{alike[0][1]}' would without {ID_VARIANTS})" if alike else ""
        raise DataError(
            f"{names}: no column of one has values of a column of the other{hint}, so log and catalogue do not "
            "belong together. Give the file of interactions and the file of items with the same item ids."
        )
    near = [fit for fit in fits if fit[1] is log and fit[2] is catalogue and fit[0] > best - 0.5]
    answers = list(dict.fromkeys(fit[3].name for fit in near))
    if len(answers) > 1:
        item = ask(f"Which column of {log.path.name} is the item?", column.name, answers)
        *_, column, key = max((fit for fit in near if fit[3].name == item), key=lambda fit: fit[0])
    why = [
        f"interactions: {log.path.name}, {log.table.num_rows} rows",
        f"items: {catalogue.path.name}, {catalogue.table.num_rows} rows",
        f"item: '{column.name}'; {column.inside(key):.0%} of its values are in '{key.name}' of {catalogue.path.name}",
    ]
    unused = [file.path.name for file in files if file is not log and file is not catalogue]
    if unused:
        why.append(f"not used: {', '.join(unused)} (to use several logs, name them with * in the recipe)")
    return Schema(log, catalogue, column.name, key.name, why)


def _fit(column: ColumnProfile, key: ColumnProfile, others: list[ColumnProfile]) -> float:
    """Score how well a column of a log refers to a key of a catalogue; 0 if it cannot."""
    if not key.identifies or not column.distinct or column.kind == "list":
        return 0.0
    inside = column.inside(key)
    # A small catalogue beside a large log is accepted if both columns are named as item ids.
    both_item_names = _id_score(column, ITEM) > 0 and _id_score(key, ITEM) > 0
    if not inside or (inside < 0.3 and not both_item_names):
        return 0.0
    has_user = any(matches_name(other.name, USER) and other.name != column.name for other in others)
    name = _id_score(column, ITEM) - _id_score(column, USER) + _id_score(key, ITEM) / 2
    return 3 * inside + column.repeated + has_user + name


def _one_file(rows: FileTable, columns: list[ColumnProfile], ask: Ask) -> Schema:
    """Find the item column of a file that is both log and catalogue, by name, then by repetition of values."""
    candidates = [
        c for c in columns if c.kind in ("text", "number") and c.distinct > 1 and not matches_name(c.name, TIME)
    ]
    scored = sorted(candidates, key=lambda c: -(_id_score(c, ITEM) - _id_score(c, USER) + c.repeated))
    if len(scored) < 2:
        raise DataError(
            f"{rows.path.name}: an interaction needs a user column and an item column. "
            "Columns: " + ", ".join(column.name for column in columns)
        )
    item = scored[0].name
    if not _id_score(scored[0], ITEM):
        item = ask(f"Which column of {rows.path.name} is the item?", item, [column.name for column in scored])
    why = [
        f"interactions and items: {rows.path.name}, {rows.table.num_rows} rows (each row an interaction)",
        f"item: '{item}'",
    ]
    return Schema(rows, rows, item, item, why)


def _user(columns: list[ColumnProfile], schema: Schema, ask: Ask) -> str:
    able = [column for column in columns if column.kind in ("text", "number")]
    user_columns = [column for column in able if _id_score(column, USER) == 2]
    one_user = not any(column.distinct > 1 for column in user_columns)  # a log of one user
    scored = [column for column in able if column.distinct > 1] + (user_columns if one_user else [])
    scored.sort(key=lambda c: -(_id_score(c, USER) - _id_score(c, ITEM) + c.repeated))
    if not scored:
        raise DataError(f"{schema.log.path.name} has no column for the user besides '{schema.item}'.")
    name, guess = scored[0].name, ""
    if _id_score(scored[0], USER) != 2:
        name = ask(f"Which column of {schema.log.path.name} is the user?", name, [column.name for column in scored])
        guess = " (a guess by how often values repeat; please check)"
    chosen = next(column for column in scored if column.name == name)
    schema.why.append(f"user: '{name}'; {chosen.distinct} of them{guess}")
    return name


def _time(columns: list[ColumnProfile], schema: Schema, ask: Ask) -> str | None:
    scored = [(column.time_likely(matches_name(column.name, TIME)), column) for column in columns]
    best = max((score for score, _ in scored), default=0.0)
    if best < 1:
        unread = [c for c in columns if c.kind == "text" and matches_name(c.name, TIME)]
        why = [
            f"'{c.name}' has the name of a time, but its values (such as '{c.text[0]}') do not parse as times"
            for c in unread
        ]
        schema.why.append(f"time: {'; '.join(why) or 'no column'}; file order is used as time order")
        return None
    near = {column.name: column for score, column in scored if score == best}
    name = next(iter(near))
    if len(near) > 1:
        name = ask(f"Which column of {schema.log.path.name} is the time of the event?", name, list(near))
    if near[name].order_unknown:
        schema.day_first = ask(f"Is 3/4/2021 in '{name}' the 3rd of April?", "yes", ["yes", "no"]) == "yes"
    order = " (day and month are ambiguous; day first is assumed)" if schema.day_first else ""
    schema.why.append(f"time: '{name}', {near[name].time_words or 'dates'}{order}")
    return name


def _rating(columns: list[ColumnProfile], schema: Schema) -> str | None:
    rating_columns = [column for column in columns if matches_name(column.name, RATING)]
    for column in rating_columns:
        if column.kind == "number" and column.filled == 1 and column.distinct <= 101:
            schema.why.append(f"rating: '{column.name}'")
            return column.name
    for column in rating_columns:
        if column.kind == "text" and column.distinct > 1 and not column.prose > 0.5:
            unparsed = column.text.filter(pc.is_null(try_cast(column.text, "DOUBLE")))
            shown = next(filter(None, unparsed.to_pylist()), "an empty one")
            schema.why.append(f"rating: not '{column.name}', since not all its values are numbers (such as '{shown}')")
    return None


def _belongs_to_items(schema: Schema, column: ColumnProfile) -> bool:
    """Whether a column of a log depends on the item only."""
    if column.name == schema.item:
        return True
    pairs = pa.table({"item": schema.log.table[schema.item], "value": column.text}).drop_null()
    counted = pairs.group_by(["item", "value"]).aggregate([([], "count_all")])
    # Spellings change over the years, so 30 % more pairs than items are allowed.
    return counted.num_rows <= 1.3 * max(len(pc.unique(counted["item"])), 1)


def _choose_texts(columns: list[ColumnProfile], schema: Schema) -> None:
    """Choose the title and up to three more text columns of items."""
    able = [c for c in columns if c.kind in ("text", "list") and c.filled >= 0.2 and not c.links]
    titles = sorted(
        (column for column in able if column.kind == "text" and column.name != schema.key),
        key=lambda c: -(2.0 * (words(c.name)[-1:] in (["title"], ["name"])) + matches_name(c.name, TITLE) + c.prose),
    )
    if titles and (matches_name(titles[0].name, TITLE) or titles[0].prose > 0.3):
        schema.title = titles[0].name
    about = [
        column
        for column in columns
        if column.name not in (schema.title, schema.key)
        and (column in able or column.kind == "number")
        and column.distinct > 1
        and (matches_name(column.name, TEXT) or (column in able and column.prose > 0.3))
        and not _id_score(column, USER)
    ]
    about.sort(key=lambda column: column.letters > 80)  # long descriptions last
    schema.text = [name for name in (schema.title, *(column.name for column in about[:3])) if name]
    if schema.text:
        schema.why.append(f"text of items: {', '.join(schema.text)}")
    else:
        schema.why.append("text of items: none found; item ids are used, so codes do not depend on content")
        schema.text = [schema.key]
