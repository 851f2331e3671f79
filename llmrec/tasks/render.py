"""Render templates for many instances at once, column by column, and record where each slot value is in the text."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.errors import PromptError
from llmrec.items.item_text import plain_text
from llmrec.recipe import Tasks
from llmrec.tasks.inputs import EVENT_SLOTS, TaskInputs
from llmrec.tasks.instances import Instances, concat_ranges
from llmrec.tasks.templates import RATING, parts, sanitize

BYTES_PER_TOKEN = 3  # of ordinary text; a careful estimate for Latin script
SLOT_SPAN = pa.struct([("start", pa.int32()), ("stop", pa.int32()), ("kind", pa.string()), ("item_id", pa.string())])
_LETTERS, _VERDICTS = pa.array(list(string.ascii_uppercase)), pa.array(["no", "yes"])


@dataclass(frozen=True)
class SlotValues:
    """Values of one slot, for a batch of instances.

    Attributes:
        offsets: (instances + 1,) instance i has the values offsets[i] to offsets[i + 1].
        texts: (values,) the values.
        kind: kind of the values.
        items: (values,) item number of each, -1 if none.
        prefixes: (values,) text before each value, not part of it, such as a separator; or None.
    """

    offsets: np.ndarray
    texts: pa.Array
    kind: str
    items: np.ndarray
    prefixes: pa.Array | None = None


@dataclass(frozen=True)
class RenderedTexts:
    """Rendered texts of a batch of instances.

    Attributes:
        texts: (instances,) the texts.
        slots: (instances,) lists of SLOT_SPAN: characters, kind and item of each value, in order.
    """

    texts: pa.Array
    slots: pa.Array


def render(text: str, instances: Instances, inputs: TaskInputs, tasks: Tasks) -> RenderedTexts:
    """Fill a prompt or answer for many instances.

    Args:
        text: prompt or answer of a template.
        tasks: of the recipe, for `history_tokens`.

    Raises:
        PromptError: a slot that the task cannot fill.
    """
    columns: list[pa.Array] = []
    length = np.zeros(len(instances), np.int64)
    placed: list[tuple[SlotValues, np.ndarray, np.ndarray]] = []
    for literal, name in parts(text):
        columns.append(pa.repeat(pa.scalar(literal), len(instances)))
        length = length + len(literal)
        if name is None:
            continue
        values = slot_values(name, instances, inputs, tasks)
        joined, starts, stops = _join(values, length)
        placed.append((values, starts, stops))
        columns.append(joined)
        length = length + pc.utf8_length(joined).to_numpy(zero_copy_only=False)
    return RenderedTexts(pc.binary_join_element_wise(*columns, ""), _spans(placed, len(instances), inputs))


def _join(values: SlotValues, length: np.ndarray) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Join the values of each instance.

    Args:
        length: (instances,) characters before the slot.

    Returns:
        (instances,) joined texts, and (values,) the characters at which each value starts and stops.
    """
    sizes = pc.utf8_length(values.texts).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(sizes) == len(length) and values.prefixes is None and (np.diff(values.offsets) == 1).all():
        return values.texts, length, length + sizes
    flat, prefixes = values.texts, np.zeros(len(sizes), np.int64)
    if values.prefixes is not None:
        flat = pc.binary_join_element_wise(values.prefixes, values.texts, "")
        prefixes = pc.utf8_length(values.prefixes).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(sizes + prefixes)
    before = np.concatenate([[0], ends])[values.offsets[:-1]]  # characters of earlier instances
    stops = ends + np.repeat(length - before, np.diff(values.offsets))
    lists = pa.ListArray.from_arrays(pa.array(values.offsets, pa.int32()), flat)
    return pc.binary_join(lists, ""), stops - sizes, stops


def _spans(placed: list[tuple[SlotValues, np.ndarray, np.ndarray]], instances: int, inputs: TaskInputs) -> pa.Array:
    """(instances,) lists of SLOT_SPAN, in the order of the text."""
    if not placed:
        return pa.ListArray.from_arrays(pa.array(np.zeros(instances + 1, np.int32)), pa.array([], SLOT_SPAN))
    counts = [np.diff(values.offsets) for values, _, _ in placed]
    rows = np.concatenate([np.repeat(np.arange(instances), count) for count in counts])
    order = pa.array(np.argsort(rows, kind="stable")) if len(placed) > 1 else None
    items = np.concatenate([values.items for values, _, _ in placed])
    kinds = np.repeat(np.arange(len(placed), dtype=np.int8), [len(values.items) for values, _, _ in placed])
    columns = [
        pa.array(np.concatenate([starts for _, starts, _ in placed]), pa.int32()),
        pa.array(np.concatenate([stops for _, _, stops in placed]), pa.int32()),
        pa.array([values.kind for values, _, _ in placed]).take(pa.array(kinds)),
        inputs.item_ids.take(pa.array(items, mask=items < 0)).fill_null(""),
    ]
    flat = pa.StructArray.from_arrays(
        [column.take(order) if order else column for column in columns], fields=list(SLOT_SPAN)
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sum(counts))]), pa.int32()), flat)


def slot_values(name: str, instances: Instances, inputs: TaskInputs, tasks: Tasks) -> SlotValues:
    """Values of a slot.

    Raises:
        PromptError: a slot that the task cannot fill, such as {letter} without candidates, or {scale}.
    """
    if name in ("candidates", "options", "letter", "verdict") and np.isnan(instances.labels).any():
        raise PromptError(
            f"the slot {{{name}}} belongs to tasks with candidates. Take it out of this task's templates."
        )
    if name in RATING:
        raise PromptError(f"the slot {{{name}}} is for `llmrec rate` alone. Take it out of this task's templates.")
    if name in ("history", "titles"):
        return _history(name, instances, inputs, tasks)
    if name in ("candidates", "options"):
        return _candidates(name, instances, inputs)
    texts = _single(name, instances, inputs)
    items = instances.items if name in ("item", "title", "text") else np.full(len(texts), -1)
    return SlotValues(np.arange(len(texts) + 1), texts, "text" if name == "title" else name, items)


def has_value(name: str, instances: Instances, inputs: TaskInputs) -> np.ndarray:
    """(instances,) bool, whether a slot has a value."""
    if name in ("history", "titles"):
        return instances.ends > instances.begins
    if name == "intention":
        column, rows = inputs.intentions, instances.items
    elif name == "preference":
        column, rows = inputs.preferences, instances.users
    elif name in EVENT_SLOTS:
        column, rows = inputs.events.get(name), instances.events
    else:
        return np.full(len(instances), True)
    known = rows >= 0
    if column is None:
        return np.full(len(instances), False)
    known[known] = _is_filled(column.take(pa.array(rows[known])))
    return known


def _is_filled(column: pa.Array) -> np.ndarray:
    """(rows,) bool: not null, and for text not blank."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if not pa.types.is_string(column.type):
        return valid
    blank = pc.equal(pc.utf8_trim_whitespace(column.fill_null("")), "").to_numpy(zero_copy_only=False)
    return valid & ~blank


def format_rating(value: float) -> str:
    """Write a rating without trailing zeros: 4, 3.5."""
    return f"{float(value):g}"


def _single(name: str, instances: Instances, inputs: TaskInputs) -> pa.Array:
    """(instances,) values of a slot with one value per instance."""
    if name in EVENT_SLOTS:
        clean = format_rating if name == "rating" else lambda value: sanitize(plain_text(value))
        values = inputs.events[name].take(pa.array(instances.events)).to_pylist()
        return pa.array([clean(value) for value in values], pa.string())
    if name in ("letter", "verdict"):
        options = _LETTERS if name == "letter" else _VERDICTS
        return options.take(pa.array(instances.labels.astype(np.int64)))
    if name == "user":
        users = inputs.users.take(pa.array(instances.users)).to_pylist()
        return pa.array([sanitize(plain_text(user)) for user in users], pa.string())
    if name == "preference":
        assert inputs.preferences is not None
        return inputs.preferences.take(pa.array(instances.users))
    columns = {"item": inputs.codes, "title": inputs.titles, "text": inputs.texts, "intention": inputs.intentions}
    column = columns[name]
    assert column is not None
    return column.take(pa.array(instances.items))


def _history(name: str, instances: Instances, inputs: TaskInputs, tasks: Tasks) -> SlotValues:
    """Codes of the history, or its titles, separated by semicolons."""
    begins = instances.begins
    if name == "titles" and tasks.history_tokens is not None:
        begins = _begins_within(tasks.history_tokens, instances, inputs)
    offsets, events = concat_ranges(begins, instances.ends)
    items = inputs.train.items[events].astype(np.int64)
    if name == "history":
        return SlotValues(offsets, inputs.codes.take(pa.array(items)), "history", items)
    first = np.zeros(len(items), bool)
    first[offsets[:-1][offsets[1:] > offsets[:-1]]] = True
    prefixes = pa.array(["; ", ""]).take(pa.array(first.astype(np.int8)))
    return SlotValues(offsets, inputs.titles.take(pa.array(items)), "title", items, prefixes)


def _begins_within(tokens: int, instances: Instances, inputs: TaskInputs) -> np.ndarray:
    """(instances,) begin of each history once the oldest titles beyond a token budget are dropped; one stays."""
    offsets, events = concat_ranges(instances.begins, instances.ends)
    sizes = pc.binary_length(inputs.titles).to_numpy(zero_copy_only=False)[inputs.train.items[events]] + 2
    before = np.concatenate([[0], np.cumsum(sizes)])
    to_end = np.repeat(before[offsets[1:]], np.diff(offsets)) - before[:-1]
    too_old = np.concatenate([[0], np.cumsum(to_end > tokens * BYTES_PER_TOKEN)])
    dropped = too_old[offsets[1:]] - too_old[offsets[:-1]]
    return np.minimum(instances.begins + dropped, np.maximum(instances.begins, instances.ends - 1))


def _candidates(name: str, instances: Instances, inputs: TaskInputs) -> SlotValues:
    """Codes of the candidates; as `options`, each after its letter."""
    assert instances.candidates is not None
    filled = instances.candidates >= 0
    offsets, items = np.concatenate([[0], np.cumsum(filled.sum(1))]), instances.candidates[filled]
    prefixes = None
    if name == "options":
        letters = [f"{' ' if index else ''}{letter}: " for index, letter in enumerate(string.ascii_uppercase)]
        columns = np.broadcast_to(np.arange(filled.shape[1]), filled.shape)[filled]
        prefixes = pa.array(letters).take(pa.array(columns))
    return SlotValues(offsets, inputs.codes.take(pa.array(items)), "candidate", items, prefixes)
