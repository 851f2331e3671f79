"""The history of each user of a run's data, and the items that most users have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmrec.collaborative.counts import users_of_items
from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.refused import Refused


class Users:
    """Users of the run's data, by id; none in an export."""

    def __init__(self, folder: Path | None) -> None:
        """Read the run's interactions.

        Args:
            folder: a run's `data/`; None where there is none.

        Raises:
            RunError: a file is missing.
        """
        self._data = Dataset.load(folder, texts=False) if folder else None
        self._number = {user: at for at, user in enumerate(self._data.user_ids)} if self._data else {}

    def __len__(self) -> int:
        return len(self._number)

    @property
    def ids(self) -> list[str]:
        """Every user, in the order of the data."""
        return list(self._number)

    def history(self, user: str) -> list[str]:
        """Item ids of a user, oldest first.

        Raises:
            Refused: there is no such user, or no users at all.
        """
        if self._data is None:
            raise Refused(422, "this model was served without its data, so it knows no users: send `history`.", "user")
        if user not in self._number:
            raise Refused(422, "the run's data have no user of this id: send `history` instead.", "user")
        return [self._data.item_ids[item] for item in self._data.histories[self._number[user]]]

    def popular(self, catalogue: Catalogue) -> np.ndarray:
        """(items,) float64 users of each item of a catalogue, by item number; empty where there are no data."""
        if self._data is None:
            return np.zeros(0)
        users = users_of_items(self._data.before("valid"), self._data.n_items)
        counts = dict(zip(self._data.item_ids, users.tolist(), strict=True))
        return np.array([counts.get(item_id, 0) for item_id in catalogue.item_ids], np.float64)
