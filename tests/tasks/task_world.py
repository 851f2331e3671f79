"""Small sources for tests of tasks: items with given texts, users with given histories, events with given words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from llmrec.contracts import Sequences
from llmrec.indexing.catalogue import Catalogue
from llmrec.tasks.inputs import TaskInputs

TEXTS = [f"text {number}" for number in range(30)]


def catalogue(texts: list[str]) -> Catalogue:
    """An item a text; the code of item n is <a_n><b_0>."""
    items = pa.table({"item_id": [f"i{number}" for number in range(len(texts))], "title": texts})
    return Catalogue.of(items, np.stack([np.arange(len(texts)), np.zeros(len(texts))], 1).astype(np.int32), [999, 1])


def source(
    histories: list[list[int]], texts: list[str] = TEXTS, users: list[str] | None = None, **events
) -> TaskInputs:
    """A source of histories of item numbers; columns of events are given flat, one value an event."""
    names = users or [f"u{number}" for number in range(len(histories))]
    columns = {name: pa.array(values) for name, values in events.items()}
    return TaskInputs.of(Sequences.of(histories), names, catalogue(texts), texts, columns)
