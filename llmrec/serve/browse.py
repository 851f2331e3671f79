"""The items of a catalogue, page by page: what a client needs to show them, and to know what people say about them."""

from __future__ import annotations

import pyarrow as pa

from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.shapes import Entry, Page


def page(catalogue: Catalogue, start: int, limit: int, words: str = "") -> Page:
    """Some items in the order of the catalogue.

    Args:
        start: how many to pass over.
        limit: how many to give at most.
        words: only items whose title has all of these in it, in any case; "" for every item.
    """
    wanted = words.lower().split()
    numbers: range | list[int] = range(len(catalogue.item_ids))
    if wanted:
        titles = (title.lower() for title in catalogue.titles)
        numbers = [at for at, title in enumerate(titles) if all(word in title for word in wanted)]
    chosen = list(numbers[start : start + limit])
    rows = catalogue.items.take(pa.array(chosen, pa.int64())).to_pylist()
    items = [
        Entry(
            item_id=catalogue.item_ids[at],
            title=catalogue.titles[at],
            code=catalogue.code_texts[at],
            columns={name: value for name, value in row.items() if name not in ("item_id", "title")},
        )
        for at, row in zip(chosen, rows, strict=True)
    ]
    return Page(catalogue=catalogue.hash, total=len(numbers), start=start, items=items)
