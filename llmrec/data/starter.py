"""A first recipe for somebody's files: settings that suit their size, each with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from llmrec.data.clean import Cleaned, clean
from llmrec.data.look import Look
from llmrec.data.own import as_text, read_files
from llmrec.data.raw import BadRow
from llmrec.errors import DataError
from llmrec.recipe import Columns, Data

_MANY = 10_000  # interactions from which on rare users and items can be left out
_LEARNED = 2_000_000  # item places that the quickstart learns from: events x windows x epochs
_LONG = 10  # epochs of a long training, in which a teacher's help pays; after 4 it still harmed
_SQUARED = 20_000  # items up to which EASE, which holds each pair of them, is fitted: 2.4 GB


@dataclass(frozen=True)
class Size:
    """What settings follow from.

    Attributes:
        users, items, events: after cleaning; `items` is the whole catalogue.
        core: data.core that was chosen.
        lengths: (users,) events of each.
        repeats: share of events whose item the user had before.
        textless: items without any text.
        bad: rows that are left out.
    """

    users: int
    items: int
    events: int
    core: int
    lengths: np.ndarray
    repeats: float
    textless: int
    bad: list[BadRow]


def derive_items(look: Look, target: Path, force: bool = False) -> None:
    """Write the catalogue that a log carries in its own columns: an item a row, each value the one said most often.

    Args:
        look: what the log holds.
        target: the CSV file to write.
        force: write over a file that is there.

    Raises:
        DataError: the file is there already.
    """
    if target.exists() and not force:
        raise DataError(f"{target} is there already. Give it as the items file too, or write over it with --force.")
    ids, texts = as_text(look.log.table[look.item]), [name for name in look.text if name != look.item]
    table = pa.table({"item_id": ids, **{f"c{n}": look.log.table[name] for n, name in enumerate(texts)}})
    db = duckdb.connect()
    db.register("log", table)
    names = {f"c{n}": '"' + name.replace('"', '""') + '"' for n, name in enumerate(texts)}
    # A tie between values goes to the alphabet, so that the same log always gives the same catalogue.
    chosen = [
        f"""(SELECT {column} FROM log AS one WHERE one.item_id = items.item_id AND {column} IS NOT NULL
             GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT 1) AS {name}"""
        for column, name in names.items()
    ]
    query = ", ".join(["item_id", *chosen])
    found = db.sql(
        f"SELECT {query} FROM (SELECT DISTINCT item_id FROM log WHERE item_id IS NOT NULL) AS items ORDER BY item_id"
    )
    db.register("found", found.to_arrow_table())
    db.execute(f"COPY found TO '{str(target.absolute()).replace(chr(39), chr(39) * 2)}' (FORMAT csv, HEADER)")


def data_part(look: Look, items: Path | None = None) -> Data:
    """The recipe's `data:` for what was seen.

    Args:
        look: what the files hold.
        items: the derived catalogue, where the log carried it.
    """
    key = "item_id" if items else look.key
    title = None if items and look.title == look.item else look.title
    columns = Columns(
        user_id=look.user,
        item_id=look.item,
        timestamp=look.timestamp,
        rating=look.rating,
        item_key=None if key == look.item else key,
        title=None if title in (None, "title") else title,
    )
    return Data(
        source="files",
        interactions=str(look.log.path),
        items=str(items or look.catalogue.path),
        columns=columns,
        day_first=look.day_first,
        max_bad_rows=1 << 40,
    )


def text_as_read(look: Look) -> list[str]:
    """The columns that describe an item, by the names that they have once the files are read."""
    names = {look.key: "item_id"} | ({look.title: "title"} if look.title and look.title != look.key else {})
    return list(dict.fromkeys(names.get(name, name) for name in look.text))


def measure(data: Data, text: list[str], seed: int = 42) -> Size:
    """Read and clean as a run would, and count.

    Raises:
        DataError: see `sources.read` and `clean.clean`.
    """
    raw = read_files(data, quiet=True)
    whole = clean(raw, data, seed)
    core, cleaned = 0, whole
    for tried in (5, 3) if whole.interactions.num_rows >= _MANY else ():
        try:
            found = clean(raw, data.model_copy(update={"core": tried}), seed)
        except DataError:
            continue  # nothing is left
        if all(_kept(found, whole, column) for column in ("user_id", "")):
            core, cleaned = tried, found
            break
    return _size(cleaned, core, text, raw.dropped)


def _kept(found: Cleaned, whole: Cleaned, column: str) -> bool:
    """Whether most of what there was is left: users, or interactions where no column is named."""
    left, had = (
        len(pc.unique(one.interactions[column])) if column else one.interactions.num_rows for one in (found, whole)
    )
    return left >= 0.8 * had


def _size(cleaned: Cleaned, core: int, text: list[str], bad: list[BadRow]) -> Size:
    events = cleaned.interactions
    counted = events.group_by(["user_id"]).aggregate([([], "count_all")])["count_all"].to_numpy()
    pairs = events.group_by(["user_id", "item_id"]).aggregate([([], "count_all")]).num_rows
    columns = [as_plain(cleaned.items[name]) for name in text]
    textless = sum(not any(row) for row in zip(*columns, strict=True))
    return Size(
        len(counted), cleaned.items.num_rows, events.num_rows, core, counted, 1 - pairs / events.num_rows, textless, bad
    )


def as_plain(column: pa.ChunkedArray) -> list[str]:
    """Values as text without blanks around them; nothing where there is none."""
    return [str(value).strip() if value not in (None, []) else "" for value in column.to_pylist()]


def settings(size: Size) -> dict[str, Any]:
    """Settings that suit a size: placeholders of the recipe below."""
    typical = float(np.percentile(size.lengths, 90))
    history = next((steps for steps in (5, 10, 20) if typical <= steps), 50)
    windows = 2 if size.events * 2 <= _LEARNED else 1
    small = size.items < 100
    epochs = int(np.clip(_LEARNED // (size.events * windows), 3, 60))
    return {
        "history": history,
        "windows": windows,
        "epochs": epochs,
        "taught": 0.2 if epochs >= _LONG else 0.0,
        "teacher": "markov-ease" if size.items <= _SQUARED else "markov",
        "batch": 8 if size.events < 20_000 else 32,
        "width": _width(size.items),
        "levels": 2 if size.items < 1000 else 3,
        "vocabulary": 1000 if size.items > 500 else 500,
        "ranking": "[hr@1, hr@5, ndcg@5]" if small else "[hr@5, ndcg@5, hr@10, ndcg@10, hr@20, ndcg@20]",
        "beams": min(50, max(5, size.items // 2)) if small else 50,
        "exclude_seen": size.repeats < 0.1,
        "baselines": "" if size.items <= _SQUARED else ", baselines: [popularity, markov]",
    }


def _width(items: int) -> int:
    """A power of two, at most a quarter of the items; 64 suits thousands of items, 256 more than that."""
    return min(64 if items < 5000 else 256, 1 << max(2, items // 4).bit_length() - 1)


def recipe_text(data: Data, text: list[str], size: Size, target: Path, origin: str) -> str:
    """The recipe, with a comment beside every choice.

    Args:
        data: as `data_part` gives it.
        text: columns that describe an item, by the names that the run will have for them.
        size: as measured.
        target: where the recipe will stand; files are named from there.
        origin: the command that made it.
    """
    chosen = settings(size)
    columns = data.columns.model_dump(exclude_defaults=True)
    lengths = f"{int(np.median(size.lengths))} in the middle, {int(size.lengths.max())} at most"
    optional = [f"  day_first: {str(data.day_first).lower()}"] if data.day_first is not None else []
    if size.bad:
        optional.append(f"  max_bad_rows: {len(size.bad)}   # rows that do not parse; `llmrec data check` names each")
    missing = [f"  missing_text: item-id   # {size.textless} item(s) have none"] if size.textless else []
    lines = [
        f"# {size.users} users, {size.items} items, {size.events} interactions. Written by: {origin}",
        f"# Try:   llmrec run {target.name} --tiny     (a minute: proves the path, not the numbers)",
        f"# Run:   llmrec run {target.name}",
        "seed: 42",
        "data:",
        "  source: files",
        f"  interactions: {_flow(_from(data.interactions, target))}",
        f"  items: {_flow(_from(data.items, target))}",
        *([f"  columns: {_flow(columns)}   # ours: yours"] if columns else []),
        *optional,
        f"  core: {size.core}   # {_core_words(size.core)}",
        "  split: leave-one-out   # the last interaction of each user is the test, the last but one validates",
        "items:",
        f"  text: {_flow(text)}   # what the language model reads about an item, most telling first",
        *missing,
        "  encoder: minilm-l6",
        f"# Codes of text and of what goes together in histories; {chosen['width']} a level suit {size.items} items.",
        f"indexing: {{method: rq-kmeans, levels: {chosen['levels']}, width: {chosen['width']}, vectors: weighted, "
        "teacher: ppmi}",
        f"# Interactions of a user: {lengths}.",
        f"tasks: {{history: {chosen['history']}, windows: {chosen['windows']}, "
        "item_to_text: 0.25, text_to_item: 0.25}",
        '# A small model from scratch; instead: {base: "embedded:smollm2-135m-instruct", adapt: lora}, with softmax: '
        "vocabulary below",
        f"model: {{base: nano, width: 128, layers: 3, heads: 2, vocabulary: {chosen['vocabulary']}, "
        "init_tokens: vectors}",
        f"# {_taught_words(chosen)}",
        "train:",
        f"  - {{method: sft, epochs: {chosen['epochs']}, batch: {chosen['batch']}, learning_rate: 2.0e-3, "
        f"precision: bf16, softmax: catalogue, {_taught(chosen)}}}",
        f"# {size.repeats:.0%} of the interactions are with an item that the user had before.",
        f"evaluate: {{ranking: {chosen['ranking']}, beams: {chosen['beams']}, "
        f"exclude_seen: {str(chosen['exclude_seen']).lower()}{chosen['baselines']}}}",
    ]
    return "\n".join(lines) + "\n"


def _taught(chosen: dict[str, Any]) -> str:
    return f"taught: {chosen['taught']}, teacher: {chosen['teacher']}" if chosen["taught"] else "taught: 0"


def _taught_words(chosen: dict[str, Any]) -> str:
    if chosen["taught"]:
        return "One of five items of a history gives way to what a linear teacher expects there, others in every epoch."
    return f"A teacher's help (taught: 0.2) pays in a long training; {chosen['epochs']} epochs are few."


def _core_words(core: int) -> str:
    return "users and items with fewer interactions than this are left out" if core else "everybody stays in"


def _from(name: str | None, target: Path) -> str:
    assert name
    return os.path.relpath(Path(name).resolve(), target.resolve().parent)


def _flow(value: Any) -> str:
    """A value in YAML, on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True
    ).removesuffix("...\n").strip()  # fmt: skip
