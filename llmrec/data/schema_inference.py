"""Schema inference for a user's files: which is the log and which the catalogue, and what each column is.

Names and contents of columns decide; each decision comes with a line of words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.columns import LOOSELY, ColumnProfile, loosely, profile_column, try_cast
from llmrec.data.tables import FileTable, read_table
from llmrec.errors import DataError

# Beginnings of words in the names of columns, lower case; a name counts by the words it is made of.
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

Ask = Callable[[str, str, list[str]], str]  # question, our best answer, the answers there are → the answer


@dataclass
class Schema:
    """What the files turned out to be.

    Attributes:
        log, catalogue: the files; they are one and the same where the log carries the columns of items.
        user, item, timestamp, rating: columns of the log.
        key, title, text: columns of the catalogue; `text` begins with the title where there is one.
        day_first: set where nothing in the file tells days from months.
        why: one line of words for each decision.
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
        """Whether the log is the catalogue too."""
        return self.log is self.catalogue


def infer_schema(paths: list[Path], ask: Ask = lambda question, best, answers: best) -> Schema:
    """Find out what files hold; of more than two, the pair that fits best is taken.

    `ask` is called where two answers are near one another; the default takes the better one.

    Raises:
        DataError: a file cannot be read, or no column of one names the rows of another.
    """
    rows = [read_table(path) for path in paths]
    columns = {id(one): [profile_column(one.table, name) for name in one.table.column_names] for one in rows}
    found = _one_file(rows[0], columns[id(rows[0])], ask) if len(rows) == 1 else _pair(rows, columns, ask)
    log, catalogue = columns[id(found.log)], columns[id(found.catalogue)]
    _refuse_headless(found.log, log)
    taken = {found.item, *([found.key] if found.one_file else [])}
    found.user = _user([column for column in log if column.name not in taken], found, ask)
    found.timestamp = _time([column for column in log if column.name not in {found.user, *taken}], found, ask)
    taken |= {found.user, found.timestamp or found.item}
    found.rating = _rating([column for column in log if column.name not in taken], found)
    used = {found.key, *({found.user, found.timestamp, found.rating} if found.one_file else ())}
    texts = [column for column in catalogue if column.name not in used]
    if found.one_file:
        texts = [column for column in texts if _belongs_to_items(found, column)]
    _choose_texts(texts, found)
    return found


def _refuse_headless(rows: FileTable, columns: list[ColumnProfile]) -> None:
    """Refuse a log whose first line is a row: then many names of columns are among their own values."""
    own = [c for c in columns if re.fullmatch(r"-?[\d.]+", c.name) or pc.any(pc.equal(c.text, c.name)).as_py()]
    if rows.dialect.delimiter is not None and 2 * len(own) > len(columns):
        raise DataError(
            f"{rows.path.name}, line 1: {', '.join(c.name for c in columns)}: this looks like a row and not like a "
            "header. Put a line with the names of the columns above it, such as user_id, item_id, timestamp."
        )


def words(name: str) -> list[str]:
    """The words that a name is made of, lower case: `CustomerID`, `customer_id` and `customer.id` alike."""
    return [word.lower() for word in re.findall(r"[A-ZÄÖÜ]?[a-zäöüß]+|[A-Z]+(?![a-z])", name)]


def named(name: str, beginnings: Iterable[str]) -> bool:
    """Whether a word of a name begins in one of some ways (short ones must be the whole word)."""
    return any(word == b or (len(b) > 3 and word.startswith(b)) for word in words(name) for b in beginnings)


def _id_name(column: ColumnProfile, beginnings: tuple[str, ...]) -> float:
    """Whether a column is named like an id of something: 2, 1 where the name says something else as well, or 0."""
    return 0.0 if not named(column.name, beginnings) else 1.0 if named(column.name, _NOT_AN_ID) else 2.0


def _pair(rows: list[FileTable], columns: dict[int, list[ColumnProfile]], ask: Ask) -> Schema:
    """The log, the catalogue, and the two columns by which they belong together."""
    fits = [
        (_fit(column, key, columns[id(log)]), log, catalogue, column, key)
        for log in rows
        for catalogue in rows
        if log is not catalogue
        for column in columns[id(log)]
        for key in columns[id(catalogue)]
    ]
    best, log, catalogue, column, key = max(fits, key=lambda fit: fit[0])
    if best <= 0:
        names = " and ".join(one.path.name for one in rows)
        alike = [(c.name, key.name) for *_, c, key in fits if key.identifies and c.inside(key, loosely) >= 0.5]
        hint = f" ('{alike[0][0]}' and '{alike[0][1]}' would, but for {LOOSELY})" if alike else ""
        raise DataError(
            f"{names}: no column of one holds values of a column of the other{hint}, so log and catalogue do not "
            "belong together. Give the file of interactions and the file of items, whose ids must be the same."
        )
    near = [fit for fit in fits if fit[1] is log and fit[2] is catalogue and fit[0] > best - 0.5]
    answers = list(dict.fromkeys(fit[3].name for fit in near))
    if len(answers) > 1:
        item = ask(f"Which column of {log.path.name} names the item?", column.name, answers)
        *_, column, key = max((fit for fit in near if fit[3].name == item), key=lambda fit: fit[0])
    why = [
        f"interactions: {log.path.name}, {log.table.num_rows} rows",
        f"items: {catalogue.path.name}, {catalogue.table.num_rows} rows",
        f"item: '{column.name}'; {column.inside(key):.0%} of its values stand in '{key.name}' of {catalogue.path.name}",
    ]
    unused = [one.path.name for one in rows if one is not log and one is not catalogue]
    if unused:
        why.append(f"not used: {', '.join(unused)} (put logs of several months into one file)")
    return Schema(log, catalogue, column.name, key.name, why)


def _fit(column: ColumnProfile, key: ColumnProfile, others: list[ColumnProfile]) -> float:
    """How well a column of a log names the rows of a catalogue by a key; 0 where it cannot."""
    if not key.identifies or not column.distinct or column.kind == "list":
        return 0.0
    inside = column.inside(key)
    # A small catalogue beside a large log is one, too, where both columns are named so.
    both_named = _id_name(column, ITEM) > 0 and _id_name(key, ITEM) > 0
    if not inside or (inside < 0.3 and not both_named):
        return 0.0
    has_user = any(named(other.name, USER) and other.name != column.name for other in others)
    name = _id_name(column, ITEM) - _id_name(column, USER) + _id_name(key, ITEM) / 2
    return 3 * inside + column.repeated + has_user + name


def _one_file(rows: FileTable, columns: list[ColumnProfile], ask: Ask) -> Schema:
    """One file for both: its item column, by name, then by how often values repeat."""
    candidates = [c for c in columns if c.kind in ("text", "number") and c.distinct > 1 and not named(c.name, TIME)]
    scored = sorted(candidates, key=lambda c: -(_id_name(c, ITEM) - _id_name(c, USER) + c.repeated))
    if len(scored) < 2:
        raise DataError(
            f"{rows.path.name}: an interaction needs a user and an item, each in a column of its own. "
            "It has: " + ", ".join(column.name for column in columns)
        )
    item = scored[0].name
    if not _id_name(scored[0], ITEM):
        item = ask(f"Which column of {rows.path.name} names the item?", item, [column.name for column in scored])
    why = [
        f"interactions and items: {rows.path.name}, {rows.table.num_rows} rows (each row an interaction)",
        f"item: '{item}'",
    ]
    return Schema(rows, rows, item, item, why)


def _user(columns: list[ColumnProfile], found: Schema, ask: Ask) -> str:
    able = [column for column in columns if column.kind in ("text", "number")]
    named_so = [column for column in able if _id_name(column, USER) == 2]
    one_user = not any(column.distinct > 1 for column in named_so)  # a log of one user
    scored = [column for column in able if column.distinct > 1] + (named_so if one_user else [])
    scored.sort(key=lambda c: -(_id_name(c, USER) - _id_name(c, ITEM) + c.repeated))
    if not scored:
        raise DataError(f"{found.log.path.name} has no column that could name the user, beside '{found.item}'.")
    name, guess = scored[0].name, ""
    if _id_name(scored[0], USER) != 2:
        name = ask(f"Which column of {found.log.path.name} names the user?", name, [column.name for column in scored])
        guess = " (a guess, by how often its values repeat: look whether it is right)"
    chosen = next(column for column in scored if column.name == name)
    found.why.append(f"user: '{name}'; {chosen.distinct} of them{guess}")
    return name


def _time(columns: list[ColumnProfile], found: Schema, ask: Ask) -> str | None:
    scored = [(column.time_likely(named(column.name, TIME)), column) for column in columns]
    best = max((score for score, _ in scored), default=0.0)
    if best < 1:
        unread = [c for c in columns if c.kind == "text" and named(c.name, TIME)]
        why = [f"'{c.name}' is named so, but its values (such as '{c.text[0]}') are read as no time" for c in unread]
        found.why.append(f"time: {'; '.join(why) or 'no column'}; the order of the file is taken for the order of time")
        return None
    near = {column.name: column for score, column in scored if score == best}
    name = next(iter(near))
    if len(near) > 1:
        name = ask(f"Which column of {found.log.path.name} says when it happened?", name, list(near))
    if near[name].order_unknown:
        found.day_first = ask(f"Is 3/4/2021 in '{name}' in April?", "yes", ["yes", "no"]) == "yes"
    order = " (nothing in it tells days from months: days are taken to come first)" if found.day_first else ""
    found.why.append(f"time: '{name}', {near[name].time_words or 'dates'}{order}")
    return name


def _rating(columns: list[ColumnProfile], found: Schema) -> str | None:
    named_so = [column for column in columns if named(column.name, RATING)]
    for column in named_so:
        if column.kind == "number" and column.filled == 1 and column.distinct <= 101:
            found.why.append(f"rating: '{column.name}'")
            return column.name
    for column in named_so:
        if column.kind == "text" and column.distinct > 1 and not column.prose > 0.5:
            odd = column.text.filter(pc.is_null(try_cast(column.text, "DOUBLE")))
            shown = next(filter(None, odd.to_pylist()), "an empty one")
            found.why.append(f"rating: '{column.name}' is named so, but not all values are numbers (such as '{shown}')")
    return None


def _belongs_to_items(found: Schema, column: ColumnProfile) -> bool:
    """Whether a column of a log says the same each time that an item appears."""
    if column.name == found.item:
        return True
    pairs = pa.table({"item": found.log.table[found.item], "value": column.text}).drop_null()
    counted = pairs.group_by(["item", "value"]).aggregate([([], "count_all")])
    # Spellings change over the years, so a share of items may have a second one.
    return counted.num_rows <= 1.3 * max(len(pc.unique(counted["item"])), 1)


def _choose_texts(columns: list[ColumnProfile], found: Schema) -> None:
    """Set the title and the texts of items: the title and the three most telling columns."""
    able = [c for c in columns if c.kind in ("text", "list") and c.filled >= 0.2 and not c.links]
    titles = sorted(
        (column for column in able if column.kind == "text" and column.name != found.key),
        key=lambda c: -(2.0 * (words(c.name)[-1:] in (["title"], ["name"])) + named(c.name, TITLE) + c.prose),
    )
    if titles and (named(titles[0].name, TITLE) or titles[0].prose > 0.3):
        found.title = titles[0].name
    about = [
        column
        for column in columns
        if column.name not in (found.title, found.key)
        and (column in able or column.kind == "number")
        and column.distinct > 1
        and (named(column.name, TEXT) or (column in able and column.prose > 0.3))
        and not _id_name(column, USER)
    ]
    about.sort(key=lambda column: column.letters > 80)  # long descriptions last
    found.text = [name for name in (found.title, *(column.name for column in about[:3])) if name]
    if found.text:
        found.why.append(f"text of items: {', '.join(found.text)}")
    else:
        found.why.append("text of items: none found; item ids stand for it, so codes will say nothing of the content")
        found.text = [found.key]
