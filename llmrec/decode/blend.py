"""A teacher beside the language model: both probabilities of an item, mixed, decide where it stands.

Collaborative counts know items that few took, of which a language model learns little; it knows what goes on from whole
histories, which counts do not. The mixture is late: the search runs as without it, what it found keeps its
probability, and what only the teacher expects comes in by the teacher's chance alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llmrec.collaborative import fit_one
from llmrec.collaborative.probabilities import topk_probabilities
from llmrec.contracts import CollaborativeModel, Items, Sequences
from llmrec.data.dataset import Dataset
from llmrec.decode.filters import Filter, Filters
from llmrec.decode.search import Ranked
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Evaluate


@dataclass(frozen=True)
class Blend:
    """What a teacher adds to lists of one catalogue.

    Attributes:
        teacher: fitted.
        share: of the teacher's in the mixture, 0 to 1.
        again: whether the teacher may expect what is in the history.
        catalogue: of the lists.
        numbers: (items,) int64 the teacher's number of each of the catalogue's items, -1 of those it never saw.
        back: (the teacher's items,) int64 the catalogue's number of each, -1 of those it lacks.
    """

    teacher: CollaborativeModel
    share: float
    again: bool
    catalogue: Catalogue
    numbers: np.ndarray
    back: np.ndarray

    @classmethod
    def of(
        cls, teacher: CollaborativeModel, share: float, again: bool, item_ids: Sequence[str], catalogue: Catalogue
    ) -> Blend:
        """For a catalogue, which may have other items than the teacher.

        Args:
            item_ids: the teacher's items, in the order of its numbers.
        """
        place = {item_id: number for number, item_id in enumerate(item_ids)}
        numbers = np.array([place.get(item_id, -1) for item_id in catalogue.item_ids], np.int64)
        back = np.full(len(item_ids), -1, np.int64)
        back[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
        return cls(teacher, share, again, catalogue, numbers, back)

    def __call__(
        self, found: Ranked, histories: Sequence[Sequence[int]], filters: Sequence[Filter | None] | None, k: int
    ) -> Ranked:
        """The k best of the mixture.

        Args:
            found: what the search found, as many as it had beams.
            histories: item numbers of the catalogue, oldest first; where the teacher expects nothing after one that
                it may give, as after an empty one, the model's probabilities stay.
            filters: of the search.
            k: items wanted.

        Returns:
            Items and logarithms of the mixture, best first; of equals, those of the search first.
        """
        own = found.items.astype(np.int64)
        known = [mine[mine >= 0] for mine in (self.numbers[np.asarray(row, np.int64)] for row in histories)]
        expected, chances = topk_probabilities(self.teacher, Sequences.of(known), self.again)
        items = self.back[expected]
        chances = np.where(self._may(items, filters) & (items >= 0), chances, 0)
        both = (items[:, :, None] == own[:, None, :]) & (own >= 0)[:, None, :]
        share = np.where(chances.any(1, keepdims=True), self.share, 0)  # where nothing is expected, the model alone
        weights = (1 - share) * np.exp(found.scores.astype(np.float64))
        weights += share * np.einsum("re,reo->ro", chances, both)
        weights = np.hstack([weights, share * np.where(both.any(2), 0, chances)])
        every = np.hstack([own, items])
        order = np.argsort(-weights, axis=1, kind="stable")[:, :k]
        weights, every = np.take_along_axis(weights, order, 1), np.take_along_axis(every, order, 1)
        with np.errstate(divide="ignore"):
            return Ranked(np.where(weights > 0, every, -1).astype(np.int32), np.log(weights).astype(np.float32))

    def _may(self, items: np.ndarray, filters: Sequence[Filter | None] | None) -> np.ndarray:
        """(rows, n) bool, whether the filters let items in."""
        rows, count = items.shape
        at = self.catalogue.trie.position[np.maximum(items, 0)].astype(np.int64).ravel()
        row = np.repeat(np.arange(rows), count)
        return (Filters(self.catalogue.trie, filters, rows).count(row, at, at + 1) > 0).reshape(rows, count)


def blender(settings: Evaluate, run: Path) -> Callable[[Catalogue], Blend] | None:
    """What mixes a teacher into lists of a catalogue, where a recipe asks for it; the teacher is fitted at once.

    Args:
        settings: of the recipe.
        run: the run folder; the teacher sees the training part of its data, as the model did.
    """
    if settings.blend is None:
        return None
    dataset, wanted = Dataset.load(run / "data"), settings.blend
    ids = [str(item_id) for item_id in dataset.item_ids]
    teacher = fit_one(wanted.teacher, dataset.before("valid"), Items(ids))
    return partial(Blend.of, teacher, wanted.share, not settings.exclude_seen, ids)
