"""What fills each slot of a wording: columns of pieces, for many cases at once."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.errors import PromptError
from llmrec.items.text import plain
from llmrec.recipe import Tasks
from llmrec.tasks.cases import Cases, ragged
from llmrec.tasks.source import EVENT_SLOTS, Source
from llmrec.tasks.templates import RATING, SLOTS, neutral

BYTES_PER_TOKEN = 3  # of ordinary text; on the careful side for Latin script


@dataclass(frozen=True)
class Pieces:
    """What stands in one slot, for a number of cases.

    Attributes:
        offsets: (cases + 1,) pieces offsets[c] to offsets[c + 1] belong to case c.
        texts: (pieces,) the pieces.
        kind: what they are.
        items: (pieces,) the item of each, -1 where none.
        leads: (pieces,) text before each piece that is not part of it, or None.
    """

    offsets: np.ndarray
    texts: pa.Array
    kind: str
    items: np.ndarray
    leads: pa.Array | None = None


def fill_slot(name: str, cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    """The pieces of a slot.

    Raises:
        PromptError: a slot that these cases cannot fill, such as {letter} of a task without candidates, or {scale}.
    """
    if name in EVENT_SLOTS:
        return _one(pa.array(_event_texts(name, cases, source), pa.string()), name)
    if name in ("candidates", "options", "letter", "verdict") and np.isnan(cases.labels).any():
        raise PromptError(
            f"the slot {{{name}}} belongs to tasks that offer items. Take it out of this task's wordings."
        )
    if name in RATING:
        raise PromptError(f"the slot {{{name}}} is filled by `llmrec rate` alone. Take it out of this task's wordings.")
    return _FILL[name](cases, source, tasks)


def has(name: str, cases: Cases, source: Source) -> np.ndarray:
    """(cases,) bool, whether there is something to put into a slot."""
    if name in ("history", "titles"):
        return cases.ends > cases.begins
    if name in ("intention", "preference"):
        column, rows = (source.intentions, cases.items) if name == "intention" else (source.preferences, cases.users)
        return np.full(len(cases), False) if column is None else _said(column.take(pa.array(rows)))
    if name in EVENT_SLOTS:
        if name not in source.events:
            return np.full(len(cases), False)
        known = cases.events >= 0
        known[known] = _said(source.events[name].take(pa.array(cases.events[known])))
        return known
    return np.full(len(cases), True)


def _said(column: pa.Array) -> np.ndarray:
    """Whether there is a value, and, of a text, more than blanks."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if not pa.types.is_string(column.type):
        return valid
    blank = pc.equal(pc.utf8_trim_whitespace(column.fill_null("")), "").to_numpy(zero_copy_only=False)
    return valid & ~blank


def _event_texts(name: str, cases: Cases, source: Source) -> list[str]:
    values = source.events[name].take(pa.array(cases.events)).to_pylist()
    return [stars(value) for value in values] if name == "rating" else [neutral(plain(value)) for value in values]


def stars(value: float) -> str:
    """A rating as people write it: 4, 3.5."""
    return f"{float(value):g}"


def _one(texts: pa.Array, kind: str, items: np.ndarray | None = None) -> Pieces:
    count = len(texts)
    return Pieces(np.arange(count + 1), texts, kind, np.full(count, -1) if items is None else items)


def _history(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    offsets, events = ragged(cases.begins, cases.ends)
    items = source.train.items[events].astype(np.int64)
    return Pieces(offsets, source.codes.take(pa.array(items)), "history", items)


def _titles(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    begins = cases.begins if tasks.history_tokens is None else _afforded(cases, source, tasks.history_tokens)
    offsets, events = ragged(begins, cases.ends)
    items = source.train.items[events].astype(np.int64)
    first = np.zeros(len(items), bool)
    first[offsets[:-1][offsets[1:] > offsets[:-1]]] = True
    leads = pa.array(["; ", ""]).take(pa.array(first.astype(np.int8)))
    return Pieces(offsets, source.titles.take(pa.array(items)), "title", items, leads)


def _afforded(cases: Cases, source: Source, tokens: int) -> np.ndarray:
    """(cases,) where histories begin once the oldest titles are dropped that the tokens do not reach for; one stays."""
    offsets, events = ragged(cases.begins, cases.ends)
    sizes = pc.binary_length(source.titles).to_numpy(zero_copy_only=False)[source.train.items[events]] + 2
    before = np.concatenate([[0], np.cumsum(sizes)])
    to_end = np.repeat(before[offsets[1:]], np.diff(offsets)) - before[:-1]
    too_old = np.concatenate([[0], np.cumsum(to_end > tokens * BYTES_PER_TOKEN)])
    dropped = too_old[offsets[1:]] - too_old[offsets[:-1]]
    return np.minimum(cases.begins + dropped, np.maximum(cases.begins, cases.ends - 1))


def _item(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    return _one(source.codes.take(pa.array(cases.items)), "item", cases.items)


def _user(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    ids = source.users.take(pa.array(cases.users)).to_pylist()
    return _one(pa.array([neutral(plain(user)) for user in ids], pa.string()), "user")


def _offered(cases: Cases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets and items of what is on offer, and each one's place."""
    assert cases.offers is not None
    kept = cases.offers >= 0
    places = np.broadcast_to(np.arange(cases.offers.shape[1]), cases.offers.shape)
    return np.concatenate([[0], np.cumsum(kept.sum(1))]), cases.offers[kept], places[kept]


def _candidates(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    offsets, items, _ = _offered(cases)
    return Pieces(offsets, source.codes.take(pa.array(items)), "candidate", items)


def _options(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    offsets, items, places = _offered(cases)
    leads = [f"{' ' if place else ''}{letter}: " for place, letter in enumerate(string.ascii_uppercase)]
    return Pieces(
        offsets, source.codes.take(pa.array(items)), "candidate", items, pa.array(leads).take(pa.array(places))
    )


def _letter(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    return _one(pa.array(list(string.ascii_uppercase)).take(pa.array(cases.labels.astype(np.int64))), "letter")


def _verdict(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    return _one(pa.array(["no", "yes"]).take(pa.array(cases.labels.astype(np.int64))), "verdict")


def _title(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    return _one(source.titles.take(pa.array(cases.items)), "text", cases.items)


def _text(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    return _one(source.texts.take(pa.array(cases.items)), "text", cases.items)


def _intention(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    assert source.intentions is not None
    return _one(source.intentions.take(pa.array(cases.items)), "intention")


def _preference(cases: Cases, source: Source, tasks: Tasks) -> Pieces:
    assert source.preferences is not None
    return _one(source.preferences.take(pa.array(cases.users)), "preference")


_FILL: dict[str, Callable[[Cases, Source, Tasks], Pieces]] = {
    "history": _history,
    "titles": _titles,
    "item": _item,
    "title": _title,
    "text": _text,
    "user": _user,
    "intention": _intention,
    "preference": _preference,
    "candidates": _candidates,
    "options": _options,
    "letter": _letter,
    "verdict": _verdict,
}
assert {*_FILL, *EVENT_SLOTS, *RATING} == set(SLOTS)
