"""Features beside histories that a collaborative model may need, and what to do where the data lack one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from llmrec.contracts import Features, Sequences
from llmrec.errors import DataError

GIVEN_BY = {
    "text": "vectors of the items' texts: set items.text and items.encoder in the recipe",
    "attributes": "a file of items with columns beside item_id and title, such as brand and category",
    "relations": "pairs of items, such as also_bought in Amazon's metadata",
    "user_texts": "a text about each user, such as a profile or the reviews they wrote",
    "times": "interactions with a timestamp",
}
"""Feature → what gives it."""


def check_features(name: str, needs: Iterable[str], train: Sequences, features: Features) -> None:
    """Refuse to fit a model without a feature that it needs.

    Args:
        name: of the model, for the message.
        needs: keys of `GIVEN_BY`.
        train: the training part, which may have times.
        features: what there is.

    Raises:
        DataError: a feature is missing.
    """
    available = {field.name for field in fields(features) if getattr(features, field.name) is not None}
    available |= {"times"} if train.times is not None else set()
    if missing := [need for need in needs if need not in available]:
        remedies = "; ".join(f"{need} ({GIVEN_BY[need]})" for need in missing)
        raise DataError(f"{name} needs features that the data lack: {remedies}. Give these, or name another model.")
