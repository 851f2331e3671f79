"""A first recipe for a user's files: settings that suit their size, each with its reason."""

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
from llmrec.data.columns import as_plain, as_text
from llmrec.data.raw import BadRow, sql_name, sql_string
from llmrec.data.schema_inference import Schema
from llmrec.data.user_files import read_files
from llmrec.errors import DataError
from llmrec.recipe import Columns, Data

_MANY = 10_000  # interactions from which on rare users and items can be left out
_LEARNED = 2_000_000  # item places that the quickstart learns from: events x passes x epochs
_LONG = 10  # epochs of a long training, in which a teacher's help pays; after 4 it still harmed
_SQUARED = 20_000  # items up to which EASE, which holds each pair of them, is fitted: 2.4 GB


@dataclass(frozen=True)
class DatasetSize:
    """What settings follow from.

    Attributes:
        users, items, events: after cleaning; `items` is the whole catalogue.
        core: data.k_core that was chosen.
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


def derive_items(look: Schema, target: Path, force: bool = False) -> None:
    """Write the catalogue that a log carries in its own columns: an item a row, each value the one said most often.

    Raises:
        DataError: the file is there already, and `force` is not set.
    """
    if target.exists() and not force:
        raise DataError(f"{target} is there already. Give it as the items file too, or write over it with --force.")
    texts = {f"c{n}": name for n, name in enumerate(name for name in look.text if name != look.item)}
    values = {column: look.log.table[name] for column, name in texts.items()}
    db = duckdb.connect()
    db.register("log", pa.table({"item_id": as_text(look.log.table[look.item]), **values}))
    # A tie between values goes to the alphabet, so that the same log always gives the same catalogue.
    chosen = [
        f"""(SELECT {column} FROM log AS one WHERE one.item_id = items.item_id AND {column} IS NOT NULL
             GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT 1) AS {sql_name(name)}"""
        for column, name in texts.items()
    ]
    items = "SELECT DISTINCT item_id FROM log WHERE item_id IS NOT NULL"
    found = db.sql(f"SELECT {', '.join(['item_id', *chosen])} FROM ({items}) AS items ORDER BY item_id")
    db.register("found", found.to_arrow_table())
    db.execute(f"COPY found TO {sql_string(str(target.absolute()))} (FORMAT csv, HEADER)")


def data_config(look: Schema, items: Path | None = None) -> Data:
    """The recipe's `data:` for what was seen; `items` is the derived catalogue, where the log carried it."""
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


def text_columns(look: Schema) -> list[str]:
    """The columns that describe an item, by the names that they have once the files are read."""
    names = {look.key: "item_id"} | ({look.title: "title"} if look.title and look.title != look.key else {})
    return list(dict.fromkeys(names.get(name, name) for name in look.text))


def measure_size(data: Data, text: list[str], seed: int = 42) -> DatasetSize:
    """Read and clean as a run would, and count; errors as of `sources.read` and `clean.clean`."""
    raw = read_files(data, quiet=True)
    whole = clean(raw, data, seed)
    core, cleaned = 0, whole
    for tried in (5, 3) if whole.interactions.num_rows >= _MANY else ():
        try:
            found = clean(raw, data.model_copy(update={"k_core": tried}), seed)
        except DataError:
            continue  # nothing is left
        if _keeps_most(found, whole):
            core, cleaned = tried, found
            break
    events = cleaned.interactions
    lengths = events.group_by(["user_id"]).aggregate([([], "count_all")])["count_all"].to_numpy()
    pairs = events.group_by(["user_id", "item_id"]).aggregate([([], "count_all")]).num_rows
    textless = cleaned.items.num_rows - count_with_text(cleaned.items, text)
    repeats = 1 - pairs / events.num_rows
    counts = (len(lengths), cleaned.items.num_rows, events.num_rows)
    return DatasetSize(*counts, core, lengths, repeats, textless, raw.dropped)


def _keeps_most(found: Cleaned, whole: Cleaned) -> bool:
    """Whether four fifths of the users, and of the interactions, are left."""
    left, had = found.interactions, whole.interactions
    users = len(pc.unique(left["user_id"])) >= 0.8 * len(pc.unique(had["user_id"]))
    return users and left.num_rows >= 0.8 * had.num_rows


def count_with_text(items: pa.Table, text: list[str]) -> int:
    """How many items have text in some of the columns."""
    return sum(any(row) for row in zip(*(as_plain(items[name]) for name in text), strict=True))


def _width(items: int) -> int:
    """A power of two, at most a quarter of the items; 64 suits thousands of items, 256 more than that."""
    return min(64 if items < 5000 else 256, 1 << max(2, items // 4).bit_length() - 1)


def recipe_text(data: Data, text: list[str], size: DatasetSize, target: Path, origin: str) -> str:
    """The recipe, with a comment beside every choice.

    Args:
        data, text, size: as `data_part`, `text_as_read` and `measure_size` return them.
        target: where the recipe will stand; files are named from there.
        origin: the command that made it.
    """
    columns = data.columns.model_dump(exclude_defaults=True)
    small, width = size.items < 100, _width(size.items)
    typical = float(np.percentile(size.lengths, 90))
    history = next((steps for steps in (5, 10, 20) if typical <= steps), 50)
    passes = 2 if size.events * 2 <= _LEARNED else 1
    epochs = int(np.clip(_LEARNED // (size.events * passes), 3, 60))
    batch = 8 if size.events < 20_000 else 32
    ranking = "[hr@1, hr@5, ndcg@5]" if small else "[hr@5, ndcg@5, hr@10, ndcg@10, hr@20, ndcg@20]"
    beams = min(50, max(5, size.items // 2)) if small else 50
    baselines = "" if size.items <= _SQUARED else ", baselines: [popularity, markov]"
    if epochs >= _LONG:
        taught = f"taught: 0.2, teacher: {'markov-ease' if size.items <= _SQUARED else 'markov'}"
        why_taught = (
            "One of five items of a history gives way to what a linear teacher expects there, others in every epoch."
        )
    else:
        taught = "taught: 0"
        why_taught = f"A teacher's help (taught: 0.2) pays in a long training; {epochs} epochs are few."
    core = "users and items with fewer interactions than this are left out" if size.core else "everybody stays in"
    optional = [f"  columns: {_flow(columns)}   # ours: yours"] if columns else []
    if data.day_first is not None:
        optional.append(f"  day_first: {str(data.day_first).lower()}")
    if size.bad:
        optional.append(f"  max_bad_rows: {len(size.bad)}   # rows that do not parse; `llmrec data check` names each")
    lines = [
        f"# {size.users} users, {size.items} items, {size.events} interactions. Written by: {origin}",
        f"# Try:   llmrec run {target.name} --tiny     (a minute: proves the path, not the numbers)",
        f"# Run:   llmrec run {target.name}",
        "seed: 42",
        "data:",
        "  source: files",
        f"  interactions: {_flow(_from(data.interactions, target))}",
        f"  items: {_flow(_from(data.items, target))}",
        *optional,
        f"  k_core: {size.core}   # {core}",
        "  split: leave-one-out   # the last interaction of each user is the test, the last but one validates",
        "items:",
        f"  text: {_flow(text)}   # what the language model reads about an item, most telling first",
        *([f"  missing_text: item-id   # {size.textless} item(s) have none"] if size.textless else []),
        "  encoder: minilm-l6",
        f"# Codes of text and of what goes together in histories; {width} a level suit {size.items} items.",
        f"indexing: {{method: rq-kmeans, levels: {2 if size.items < 1000 else 3}, width: {width}, fusion: weighted, "
        "collaborative_model: ppmi}",
        f"# Interactions of a user: {int(np.median(size.lengths))} in the middle, {int(size.lengths.max())} at most.",
        f"tasks: {{history: {history}, passes: {passes}, item_to_text: 0.25, text_to_item: 0.25}}",
        '# A small model from scratch; instead: {base: "embedded:smollm2-135m-instruct", adapt: lora}, with softmax: '
        "vocabulary below",
        f"model: {{base: nano, width: 128, layers: 3, heads: 2, vocabulary: {1000 if size.items > 500 else 500}, "
        "init_tokens: vectors}",
        f"# {why_taught}",
        "train:",
        f"  - {{method: sft, epochs: {epochs}, batch: {batch}, learning_rate: 2.0e-3, "
        f"precision: bf16, softmax: catalogue, {taught}}}",
        f"# {size.repeats:.0%} of the interactions are with an item that the user had before.",
        f"evaluate: {{ranking: {ranking}, beams: {beams}, exclude_seen: {str(size.repeats < 0.1).lower()}{baselines}}}",
    ]
    return "\n".join(lines) + "\n"


def _from(name: str | None, target: Path) -> str:
    assert name
    return os.path.relpath(Path(name).resolve(), target.resolve().parent)


def _flow(value: Any) -> str:
    """A value in YAML, on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True
    ).removesuffix("...\n").strip()  # fmt: skip
