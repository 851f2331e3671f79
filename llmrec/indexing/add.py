"""New items for a trained model: a new catalogue folder beside the old one, which stays as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.errors import CodeError, DataError
from llmrec.files import atomic_folder
from llmrec.indexing import build
from llmrec.indexing.catalogue import About, Catalogue
from llmrec.indexing.frozen import Frozen
from llmrec.items.text import item_texts
from llmrec.items.vectors import encode
from llmrec.recipe import ItemText

_DIGITS = 16  # of the hash, that name a folder


def add(file: Path, old: Path, settings: ItemText, seed: int, into: Path) -> tuple[Path, dict[str, Any]]:
    """Give new items codes and write a catalogue that holds the old items, too.

    Args:
        file: Parquet or CSV with item_id and the columns of the old items; items that have a code are passed over.
        old: the catalogue to add to; see `chosen`.
        settings: how text and vectors of the old items were made.
        seed: of the run.
        into: folder that the new catalogue is written into, under the beginning of its hash.

    Returns:
        The folder, and facts: its hash, how many codes were kept, how many are new, and which of them have words or
        categories that no token stands for, and so the codes of the nearest item by text.

    Raises:
        CodeError: the old catalogue is damaged, all items have codes, or spare tokens run out.
        DataError: a column is missing, an item id stands twice, or items have no text.
    """
    before, frozen = Catalogue.load(old), Frozen.load(old)
    late = _new(_read(file), before, file)
    vectors = encode(item_texts(late, settings.text, settings.missing_text), settings.encoder)
    catalogue, report = build.with_new_items(before, frozen, late, vectors, seed)
    folder = into / catalogue.hash[:_DIGITS]
    with atomic_folder(folder, lambda same: (same / "catalogue.json").is_file()) as partial:
        frozen.copy(partial)
        catalogue.save(partial, report)
    facts = {"hash": catalogue.hash, "codes kept": len(before), "new codes": late.num_rows}
    return folder, facts | {"placed by text": frozen.unknown(late), "verdict": report["verdict"]}


def chosen(trained: Path, added: Path, beginning: str | None = None) -> Path:
    """The one of a run's catalogues whose hash begins so; the one with most items where no beginning is given.

    Args:
        trained: the catalogue that the model was trained on.
        added: folder of catalogues with items that were added later.
        beginning: of a hash.

    Raises:
        CodeError: there is none, or several begin so.
    """
    every = [trained, *sorted(added.glob("[!.]*"))]
    about = {folder: About.load(folder) for folder in every if (folder / "catalogue.json").is_file()}
    found = [folder for folder, facts in about.items() if facts.hash.startswith(beginning or "")]
    if not found or (beginning and len(found) > 1):
        known = ", ".join(facts.hash[:_DIGITS] for facts in about.values()) or "none"
        raise CodeError(
            f"{len(found)} catalogues of {trained} and {added} have a hash that begins with '{beginning or ''}'. "
            f"There are: {known}. `llmrec run` makes one."
        )
    return max(found, key=lambda folder: (about[folder].items, folder.name))


def _read(file: Path) -> pa.Table:
    if not file.is_file():
        raise DataError(f"there is no file {file}. Give a Parquet or CSV file with a column item_id.")
    try:
        if file.suffix == ".csv":
            from pyarrow import csv

            table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types={"item_id": pa.string()}))
        else:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet or CSV: {str(error).splitlines()[0]}") from error
    if "item_id" not in table.column_names:
        raise DataError(
            f"{file} has no column item_id, but: {', '.join(table.column_names)}. Rename the one that is it."
        )
    return table.set_column(table.column_names.index("item_id"), "item_id", table["item_id"].cast(pa.string()))


def _new(table: pa.Table, before: Catalogue, file: Path) -> pa.Table:
    """The rows of items without a code, in the columns of the catalogue; what a file lacks is empty."""
    ids = table["item_id"].to_pylist()
    if None in ids or len(set(ids)) < len(ids):
        twice = next(one for one, times in Counter(ids).most_common() if one is None or times > 1)
        raise DataError(f"{file} has the item_id '{twice}' empty or twice. Every row needs an id of its own.")
    table = table.filter(pa.array(before.numbers(ids) < 0))
    if not table.num_rows:
        raise CodeError(f"every item of {file} has a code already, so there is nothing to add.")
    columns = {}
    for field in before.items.schema:
        try:
            found = table[field.name].combine_chunks() if field.name in table.column_names else None
            columns[field.name] = pa.nulls(table.num_rows, field.type) if found is None else found.cast(field.type)
        except pa.ArrowException as error:
            raise DataError(f"{file}: the column {field.name} is not of type {field.type} ({error}).") from error
    return pa.table(columns, schema=before.items.schema)
