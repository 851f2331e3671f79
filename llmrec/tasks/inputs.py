"""Data that task examples are built from: one split of the log, the catalogue, and optional texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset, Split
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.item_text import plain_text
from llmrec.tasks.templates import sanitize

# Slot → columns of the interactions that can fill it, the first that exists; null where an event has no value. Amazon's
# "summary" of a review is its headline, and P5 uses it as both.
EVENT_SLOTS = {
    "rating": ("rating",),
    "review": ("review",),
    "summary": ("summary",),
    "headline": ("headline", "summary"),
    "explanation": ("explanation",),
    "hint": ("hint",),
}
_WORD = re.compile(r"\w{4,}")


@dataclass(frozen=True)
class TaskInputs:
    """One split of the log as columns; event, user and item numbers are positions in it.

    Attributes:
        train: the training part of every history.
        users: (rows of train,) user ids.
        item_ids, codes, titles, texts: (items,) ids, codes as in prompts, sanitized titles and texts.
        levels: tokens of a code.
        events: slot → (events of train,) values, aligned with `train.items`.
        intentions: (items,) what a user who would like the item is looking for, or None.
        preferences: (rows of train,) what each user likes, as text, or None.
    """

    train: Sequences
    users: pa.Array
    item_ids: pa.Array
    codes: pa.Array
    titles: pa.Array
    texts: pa.Array
    levels: int
    events: dict[str, pa.Array] = field(default_factory=dict)
    intentions: pa.Array | None = None
    preferences: pa.Array | None = None

    @classmethod
    def of(
        cls,
        train: Sequences,
        users: list[str] | pa.Array,
        catalogue: Catalogue,
        texts: list[str],
        events: dict[str, pa.Array] | None = None,
    ) -> TaskInputs:
        """Build from lists; titles and texts are sanitized."""
        return cls(
            train,
            users if isinstance(users, pa.Array) else pa.array(users, pa.string()),
            catalogue.ids.cast(pa.string()),
            catalogue.codes_as_text(),
            pa.array([sanitize(plain_text(title)) for title in catalogue.titles], pa.string()),
            pa.array([sanitize(text) for text in texts], pa.string()),
            catalogue.codes.shape[1],
            events or {},
        )

    @classmethod
    def load(cls, dataset: Dataset, catalogue: Catalogue, texts: list[str], split: Split = "train") -> TaskInputs:
        """Take one split of a data set; rows of the other splits are dropped here, before any task reads them.

        A split other than "train" serves evaluation only.

        Raises:
            RunError: the catalogue has other items than the data.
        """
        dataset.check_catalogue(catalogue.item_ids)
        rows = dataset.interactions
        users = rows["user_id"].take(pa.array(dataset.histories.offsets[:-1])).combine_chunks()
        columns = {
            slot: next((name for name in names if name in rows.column_names), None)
            for slot, names in EVENT_SLOTS.items()
        }
        kept = rows.select(sorted({name for name in columns.values() if name})).filter(pc.equal(rows["split"], split))
        events = {slot: kept[name].combine_chunks() for slot, name in columns.items() if name}
        inputs = cls.of(dataset.part(split), users, catalogue, texts, events)
        if "explanation" in events and "hint" not in events:
            events["hint"] = _hints(inputs, events["explanation"])
        return inputs

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.item_ids)


def _hints(inputs: TaskInputs, explanations: pa.Array) -> pa.Array:
    """(events,) the first word of each explanation that the item's text has too, as P5's feature word; or null."""
    vocabularies = [set(_WORD.findall(text.lower())) for text in inputs.texts.to_pylist()]
    words = [
        next((word for word in _WORD.findall(plain_text(text).lower()) if word in vocabularies[item]), None)
        for text, item in zip(explanations.to_pylist(), inputs.train.items.tolist(), strict=True)
    ]
    return pa.array(words, pa.string())
