"""Generate a recipe for a user's files: settings that suit their size, each with a comment."""

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

_MANY = 10_000  # interactions from which on a k-core is tried
_LEARNED = 2_000_000  # target items of the quickstart's training: events x passes x epochs
_LONG = 10  # epochs of a long training, in which a teacher's help pays; after 4 it still harmed
_SQUARED = 20_000  # largest catalogue for EASE, whose matrix has a cell per pair of items: 2.4 GB


@dataclass(frozen=True)
class DatasetSize:
    """Statistics that settings depend on.

    Attributes:
        users, items, events: after cleaning; `items` is the whole catalogue.
        k_core: the chosen data.k_core.
        lengths: (users,) events per user.
        repeats: share of events with an item that the user had before.
        textless: items without any text.
        bad: rows that do not parse.
    """

    users: int
    items: int
    events: int
    k_core: int
    lengths: np.ndarray
    repeats: float
    textless: int
    bad: list[BadRow]


def derive_items(schema: Schema, target: Path, force: bool = False) -> None:
    """Write the items of a log as a catalogue: one row per item, with the most frequent value of each column.

    Raises:
        DataError: the file exists and `force` is not set.
    """
    if target.exists() and not force:
        raise DataError(f"{target} exists. Give it as the items file, or overwrite it with --force.")
    texts = {f"c{n}": name for n, name in enumerate(name for name in schema.text if name != schema.item)}
    values = {column: schema.log.table[name] for column, name in texts.items()}
    db = duckdb.connect()
    db.register("log", pa.table({"item_id": as_text(schema.log.table[schema.item]), **values}))
    # Ties are broken alphabetically, so that the same log always gives the same catalogue.
    chosen = [
        f"""(SELECT {column} FROM log AS events WHERE events.item_id = items.item_id AND {column} IS NOT NULL
             GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT 1) AS {sql_name(name)}"""
        for column, name in texts.items()
    ]
    items = "SELECT DISTINCT item_id FROM log WHERE item_id IS NOT NULL"
    table = db.sql(f"SELECT {', '.join(['item_id', *chosen])} FROM ({items}) AS items ORDER BY item_id")
    db.register("catalogue", table.to_arrow_table())
    db.execute(f"COPY catalogue TO {sql_string(str(target.absolute()))} (FORMAT csv, HEADER)")


def data_config(schema: Schema, items: Path | None = None) -> Data:
    """Return the recipe part `data` for a schema. `items`: path of the derived catalogue, if any."""
    key = "item_id" if items else schema.key
    title = None if items and schema.title == schema.item else schema.title
    columns = Columns(
        user_id=schema.user,
        item_id=schema.item,
        timestamp=schema.timestamp,
        rating=schema.rating,
        item_key=None if key == schema.item else key,
        title=None if title in (None, "title") else title,
    )
    return Data(
        source="files",
        interactions=str(schema.log.path),
        items=str(items or schema.catalogue.path),
        columns=columns,
        day_first=schema.day_first,
        max_bad_rows=1 << 40,
    )


def text_columns(schema: Schema) -> list[str]:
    """Return the text columns of items, by their names after reading."""
    names = {schema.key: "item_id"} | ({schema.title: "title"} if schema.title and schema.title != schema.key else {})
    return list(dict.fromkeys(names.get(name, name) for name in schema.text))


def measure_size(data: Data, text: list[str], seed: int = 42) -> DatasetSize:
    """Read and clean the data as a run does, choose the k-core, and count; errors as `sources.read` and `clean`."""
    raw = read_files(data, quiet=True)
    everything = clean(raw, data, seed)
    k_core, cleaned = 0, everything
    for k in (5, 3) if everything.interactions.num_rows >= _MANY else ():
        try:
            candidate = clean(raw, data.model_copy(update={"k_core": k}), seed)
        except DataError:
            continue  # nothing is left
        if _keeps_most(candidate, everything):
            k_core, cleaned = k, candidate
            break
    events = cleaned.interactions
    lengths = events.group_by(["user_id"]).aggregate([([], "count_all")])["count_all"].to_numpy()
    pairs = events.group_by(["user_id", "item_id"]).aggregate([([], "count_all")]).num_rows
    textless = cleaned.items.num_rows - count_with_text(cleaned.items, text)
    repeats = 1 - pairs / events.num_rows
    counts = (len(lengths), cleaned.items.num_rows, events.num_rows)
    return DatasetSize(*counts, k_core, lengths, repeats, textless, raw.dropped)


def _keeps_most(core: Cleaned, everything: Cleaned) -> bool:
    """Whether 80 % of the users and of the interactions remain."""
    kept, before = core.interactions, everything.interactions
    users = len(pc.unique(kept["user_id"])) >= 0.8 * len(pc.unique(before["user_id"]))
    return users and kept.num_rows >= 0.8 * before.num_rows


def count_with_text(items: pa.Table, text: list[str]) -> int:
    """Count the items with text in at least one of the columns."""
    return sum(any(row) for row in zip(*(as_plain(items[name]) for name in text), strict=True))


def _width(items: int) -> int:
    """Codebook size: a power of two, at most a quarter of the items and 64 (256 from 5,000 items on)."""
    return min(64 if items < 5000 else 256, 1 << max(2, items // 4).bit_length() - 1)


def recipe_text(data: Data, text: list[str], size: DatasetSize, target: Path, origin: str) -> str:
    """Return the YAML of a recipe, with a comment for every choice.

    Args:
        data, text, size: from `data_config`, `text_columns` and `measure_size`.
        target: path of the recipe, to which paths of files are made relative.
        origin: the command line, for the first comment.
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
        teacher = f"teacher_replace_prob: 0.2, teacher: {'markov-ease' if size.items <= _SQUARED else 'markov'}"
        why = "In each epoch, one of five items of a history is replaced by one that a linear teacher predicts there."
    else:
        teacher = "teacher_replace_prob: 0"
        why = f"A teacher (teacher_replace_prob: 0.2) helps in a long training; {epochs} epochs are few."
    k_core = "users and items with fewer interactions are dropped" if size.k_core else "no user or item is dropped"
    optional = [f"  columns: {_flow(columns)}   # our name: name in your file"] if columns else []
    if data.day_first is not None:
        optional.append(f"  day_first: {str(data.day_first).lower()}")
    if size.bad:
        optional.append(f"  max_bad_rows: {len(size.bad)}   # rows that do not parse; `llmrec data check` lists them")
    lines = [
        f"# {size.users} users, {size.items} items, {size.events} interactions. Written by: {origin}",
        f"# Try:   llmrec run {target.name} --tiny     (a minute, with a very small model)",
        f"# Run:   llmrec run {target.name}",
        "seed: 42",
        "data:",
        "  source: files",
        f"  interactions: {_flow(_relative(data.interactions, target))}",
        f"  items: {_flow(_relative(data.items, target))}",
        *optional,
        f"  k_core: {size.k_core}   # {k_core}",
        "  split: leave-one-out   # test: the last interaction of each user; validation: the one before",
        "items:",
        f"  text: {_flow(text)}   # what the language model reads about an item, most important first",
        *([f"  missing_text: item-id   # {size.textless} item(s) have no text"] if size.textless else []),
        "  encoder: minilm-l6",
        f"# Codes from item text and co-occurrence in histories; {width} codes per level suit {size.items} items.",
        f"indexing: {{method: rq-kmeans, levels: {2 if size.items < 1000 else 3}, width: {width}, fusion: weighted, "
        "collaborative_model: ppmi}",
        f"# Interactions per user: {int(np.median(size.lengths))} (median), {int(size.lengths.max())} at most.",
        f"tasks: {{history: {history}, passes: {passes}, item_to_text: 0.25, text_to_item: 0.25}}",
        '# A small model from scratch; instead: {base: "embedded:smollm2-135m-instruct", adapt: lora}, with loss: full '
        "below",
        f"model: {{base: nano, width: 128, layers: 3, heads: 2, vocabulary: {1000 if size.items > 500 else 500}, "
        "init_tokens: vectors}",
        f"# {why}",
        "train:",
        f"  - {{method: sft, epochs: {epochs}, batch: {batch}, learning_rate: 2.0e-3, "
        f"precision: bf16, loss: trie, {teacher}}}",
        f"# {size.repeats:.0%} of the interactions are with an item that the user had before.",
        f"evaluate: {{ranking: {ranking}, beams: {beams}, exclude_seen: {str(size.repeats < 0.1).lower()}{baselines}}}",
    ]
    return "\n".join(lines) + "\n"


def _relative(name: str | None, target: Path) -> str:
    assert name
    return os.path.relpath(Path(name).resolve(), target.resolve().parent)


def _flow(value: Any) -> str:
    """Return a value as one line of YAML."""
    return yaml.safe_dump(
        value, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True
    ).removesuffix("...\n").strip()  # fmt: skip
