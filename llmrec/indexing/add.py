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
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.catalogue_file import About
from llmrec.items.encode import encode
from llmrec.items.text import item_texts
from llmrec.recipe_file import recipe_of

FOLDER = "catalogues"
_DIGITS = 16  # of the hash, that name a folder


def add(run: Path, file: Path, beside: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Give new items codes and write `run/catalogues/HASH`, which holds the old items, too.

    Args:
        run: a run folder with a catalogue.
        file: Parquet or CSV with item_id and the columns of the run's items; items that have a code are passed over.
        beside: the hash, or the beginning of it, of the catalogue to add to; the one with most items otherwise.

    Returns:
        The folder, and facts: its hash, how many codes were kept, how many are new, and which of them have words or
        categories that no token stands for, and so the codes of the nearest item by text.

    Raises:
        RunError: no run folder.
        CodeError: there is no such catalogue, all items have codes, or spare tokens run out.
        DataError: a column is missing, an item id stands twice, or items have no text.
    """
    recipe, old = recipe_of(run), chosen(run, beside)
    before = Catalogue.load(old)
    late = _new(_read(file), before, file)
    vectors = encode(item_texts(late, recipe.items.text, recipe.items.missing_text), recipe.items.encoder)
    catalogue, report, frozen = build.added(old, late, vectors, recipe.seed)
    folder = run / FOLDER / catalogue.hash[:_DIGITS]
    with atomic_folder(folder, lambda same: (same / "catalogue.json").is_file()) as partial:
        frozen.copy(partial)
        catalogue.save(partial, report)
    facts = {"hash": catalogue.hash, "codes kept": len(before), "new codes": late.num_rows}
    return folder, facts | {"placed by text": frozen.unknown(late), "verdict": report["verdict"]}


def chosen(run: Path, beside: str | None = None) -> Path:
    """The catalogue folder of a run that a hash begins; the one with most items where none is given.

    Raises:
        CodeError: there is none, or several begin so.
    """
    about = {folder: About.load(folder) for folder in folders(run)}
    found = [folder for folder, facts in about.items() if facts.hash.startswith(beside or "")]
    if not found or (beside and len(found) > 1):
        known = ", ".join(facts.hash[:_DIGITS] for facts in about.values()) or "none"
        raise CodeError(
            f"{len(found)} catalogues of {run} begin with '{beside or ''}'. There are: {known}. `llmrec run` makes one."
        )
    return max(found, key=lambda folder: (about[folder].items, folder.name))


def folders(run: Path) -> list[Path]:
    """Catalogue folders of a run, the one that its model was trained on first."""
    every = [run / "catalogue", *sorted((run / FOLDER).glob("[!.]*"))]
    return [folder for folder in every if (folder / "catalogue.json").is_file()]


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
    """The rows of items without a code, in the columns of the catalogue; what a file lacks is empty.

    Raises:
        CodeError: there are none.
        DataError: an item id is empty or stands twice, or a value does not fit its column.
    """
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
