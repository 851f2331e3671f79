"""Wordings and columns of pieces to columns of text: whole blocks of examples at once, and where each piece stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.recipe import Tasks
from llmrec.tasks.cases import Cases
from llmrec.tasks.slots import Pieces, fill_slot
from llmrec.tasks.source import Source
from llmrec.tasks.templates import parts

SLOT = pa.struct([("start", pa.int32()), ("stop", pa.int32()), ("kind", pa.string()), ("item_id", pa.string())])


@dataclass(frozen=True)
class Text:
    """Rendered text of a number of cases.

    Attributes:
        texts: (cases,) the texts.
        slots: (cases,) lists of SLOT: characters start to stop, kind and item of every piece, in order.
    """

    texts: pa.Array
    slots: pa.Array


def render(text: str, cases: Cases, source: Source, tasks: Tasks) -> Text:
    """Fill a wording's prompt or answer for many cases.

    Args:
        text: with slots in braces.
        cases: whom and what the examples are about.
        source: ids, codes and texts.
        tasks: window and budget.
    """
    columns: list[pa.Array | str] = []
    length = np.zeros(len(cases), np.int64)
    placed: list[tuple[Pieces, np.ndarray, np.ndarray]] = []
    for literal, name in parts(text):
        columns.append(literal)
        length = length + len(literal)
        if name is None:
            continue
        pieces = fill_slot(name, cases, source, tasks)
        joined, starts, stops = _place(pieces, length)
        placed.append((pieces, starts, stops))
        columns.append(joined)
        length = length + pc.utf8_length(joined).to_numpy(zero_copy_only=False)
    columns = [part if isinstance(part, pa.Array) else pa.repeat(pa.scalar(part), len(cases)) for part in columns]
    return Text(pc.binary_join_element_wise(*columns, ""), _slots(placed, len(cases), source))


def _place(pieces: Pieces, length: np.ndarray) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Join the pieces of each case.

    Args:
        pieces: of one slot.
        length: (cases,) characters before the slot.

    Returns:
        (cases,) joined texts, and (pieces,) the characters at which each piece starts and stops.
    """
    sizes = pc.utf8_length(pieces.texts).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(sizes) == len(length) and pieces.leads is None and (np.diff(pieces.offsets) == 1).all():
        return pieces.texts, length, length + sizes
    flat, leads = pieces.texts, np.zeros(len(sizes), np.int64)
    if pieces.leads is not None:
        flat = pc.binary_join_element_wise(pieces.leads, pieces.texts, "")
        leads = pc.utf8_length(pieces.leads).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(sizes + leads)
    before = np.concatenate([[0], ends])[pieces.offsets[:-1]]  # characters in pieces of earlier cases
    stops = ends + np.repeat(length - before, np.diff(pieces.offsets))
    lists = pa.ListArray.from_arrays(pa.array(pieces.offsets, pa.int32()), flat)
    return pc.binary_join(lists, ""), stops - sizes, stops


def _slots(placed: list[tuple[Pieces, np.ndarray, np.ndarray]], cases: int, source: Source) -> pa.Array:
    """(cases,) lists of SLOT, those of one case in the order of the text."""
    if not placed:
        return pa.ListArray.from_arrays(pa.array(np.zeros(cases + 1, np.int32)), pa.array([], SLOT))
    counts = [np.diff(pieces.offsets) for pieces, _, _ in placed]
    rows = np.concatenate([np.repeat(np.arange(cases), count) for count in counts])
    order = pa.array(np.argsort(rows, kind="stable")) if len(placed) > 1 else None
    items = np.concatenate([pieces.items for pieces, _, _ in placed])
    kinds = np.repeat(np.arange(len(placed), dtype=np.int8), [len(pieces.items) for pieces, _, _ in placed])
    ids = source.item_ids.take(pa.array(items, mask=items < 0)).fill_null("")
    columns = [
        pa.array(np.concatenate([starts for _, starts, _ in placed]), pa.int32()),
        pa.array(np.concatenate([stops for _, _, stops in placed]), pa.int32()),
        pa.array([pieces.kind for pieces, _, _ in placed]).take(pa.array(kinds)),
        ids,
    ]
    flat = pa.StructArray.from_arrays(
        [column.take(order) if order else column for column in columns], fields=list(SLOT)
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sum(counts))]), pa.int32()), flat)
