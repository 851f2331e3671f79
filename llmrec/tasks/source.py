"""What tasks may read: the training part of the log, the catalogue, and words that belong to them. Nothing held out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset, Split
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.text import plain
from llmrec.tasks.templates import neutral

# Slot → columns of the interactions that can fill it, the first that there is; null where an event has none. What
# Amazon calls the summary of a review is its headline, and P5 uses it as both.
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
class Source:
    """The training part, column by column; event, user and item numbers are positions in it.

    Attributes:
        train: the training part of every history.
        users: (rows of train,) user ids.
        item_ids, codes, titles, texts: (items,) ids, codes as they stand in prompts, titles and texts without brackets.
        levels: tokens of a code.
        events: slot → (events of train,) what an event carries, aligned with `train.items`.
        intentions: (items,) what somebody wants who would be glad of the item, or None.
        preferences: (rows of train,) what a user likes, in words, or None.
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
    ) -> Source:
        """Columns from lists; titles and texts lose what could be read as a code or a control token."""
        return cls(
            train,
            users if isinstance(users, pa.Array) else pa.array(users, pa.string()),
            catalogue.ids.cast(pa.string()),
            catalogue.codes_as_text(),
            pa.array([neutral(plain(title)) for title in catalogue.titles], pa.string()),
            pa.array([neutral(text) for text in texts], pa.string()),
            catalogue.codes.shape[1],
            events or {},
        )

    @classmethod
    def load(cls, dataset: Dataset, catalogue: Catalogue, texts: list[str], split: Split = "train") -> Source:
        """The training part of a data set: rows of other splits are left out here, before any task sees them.

        Another split is for asking a trained model about it, in `train`'s place; never to learn from.

        Raises:
            RunError: the catalogue is of other items than the data.
        """
        dataset.check_catalogue(catalogue.item_ids)
        rows = dataset.interactions
        users = rows["user_id"].take(pa.array(dataset.histories.offsets[:-1])).combine_chunks()
        found = {
            slot: next((name for name in names if name in rows.column_names), None)
            for slot, names in EVENT_SLOTS.items()
        }
        kept = rows.select(sorted({name for name in found.values() if name})).filter(pc.equal(rows["split"], split))
        events = {slot: kept[name].combine_chunks() for slot, name in found.items() if name}
        source = cls.of(dataset.part(split), users, catalogue, texts, events)
        if "explanation" in events and "hint" not in events:
            events["hint"] = hints(source, events["explanation"])
        return source

    @property
    def n_items(self) -> int:
        """How many items the catalogue has."""
        return len(self.item_ids)

    def seen(self, user: int) -> np.ndarray:
        """Item numbers of a user's training part."""
        return self.train[user]


def hints(source: Source, explanations: pa.Array) -> pa.Array:
    """(events,) of each explanation the first word that its item's text has too, the feature it turns on; or null."""
    known = [set(_WORD.findall(text.lower())) for text in source.texts.to_pylist()]
    found = [
        next((word for word in _WORD.findall(plain(said).lower()) if word in known[item]), None)
        for said, item in zip(explanations.to_pylist(), source.train.items.tolist(), strict=True)
    ]
    return pa.array(found, pa.string())
