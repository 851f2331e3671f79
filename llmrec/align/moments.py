"""Moments of training histories: what somebody had, and the item they took then. Nothing held out is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from llmrec.contracts import Sequences
from llmrec.decode.filters import Filter
from llmrec.errors import DataError, ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.model.prompting import wrap
from llmrec.recipe import TemplateChoice
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.examples import next_item_prompt
from llmrec.tasks.tokens import CodedTexts


@dataclass(frozen=True)
class Moments:
    """Events of training histories, each with all that came before it.

    Attributes:
        train: the training part of every history.
        users: (moments,) int64 row of `train`.
        places: (moments,) int64 how many events came before.
        again: whether an item may be recommended that somebody had before.
        n_items: items of the catalogue.
    """

    train: Sequences
    users: np.ndarray
    places: np.ndarray
    again: bool
    n_items: int

    @classmethod
    def newest(cls, train: Sequences, events: int, again: bool, n_items: int) -> Moments:
        """The newest events of each training history that something came before.

        Args:
            train: the training part of every history.
            events: of each history, at most.
            again: whether an item may be recommended that somebody had before; where not, an event that repeats an
                item is no moment.
            n_items: items of the catalogue.

        Raises:
            DataError: no history has two events.
        """
        places = np.arange(len(train.items)) - train.offsets[train.rows]
        good = (places > 0) & (places >= train.lengths[train.rows] - events)
        whole = cls(train, train.rows, places, again, n_items)
        if not again:
            good &= whole._times(whole.users, whole.taken[:, None])[0][:, 0] >= places
        if not good.any():
            raise DataError("no training history has two events, so there is no moment to align on.")
        return cls(train, train.rows[good], places[good], again, n_items)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def taken(self) -> np.ndarray:
        """(moments,) int32 the item taken."""
        return self.train.items[self.train.offsets[self.users] + self.places]

    def history(self, moment: int) -> np.ndarray:
        """Item numbers before a moment, oldest first."""
        start = self.train.offsets[self.users[moment]]
        return self.train.items[start : start + self.places[moment]]

    def histories(self, moments: Sequence[int] | np.ndarray) -> Sequences:
        """Those of several moments."""
        return Sequences.of([self.history(int(moment)) for moment in moments])

    def filters(self, moments: Sequence[int] | np.ndarray, trie: Trie) -> list[Filter | None]:
        """What may be recommended at some moments: not again what somebody had, unless `again`."""
        return [None if self.again else Filter.of(trie, self.history(int(moment))) for moment in moments]

    def before(self, items: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """(moments, k) bool, whether the user of some moments had (moments, k) items before."""
        first, _ = self._times(self.users[moments], items)
        return first < self.places[moments][:, None]

    def later(self, items: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """(moments, k) bool, whether the user takes (moments, k) items at the moment or later, in the training part."""
        _, last = self._times(self.users[moments], items)
        return last >= self.places[moments][:, None]

    def _times(self, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, k) first and last place of (rows, k) items in the histories of (rows,) users; far and -1 for never."""
        keys, first, last = self._index
        wanted = users[:, None] * self.n_items + items
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = keys[at] == wanted
        return np.where(known, first[at], np.iinfo(np.int64).max), np.where(known, last[at], -1)

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sorted user-item pairs, and the first and the last place at which each stands."""
        rows = self.train.rows
        places = np.arange(len(rows)) - self.train.offsets[rows]
        pairs = rows * self.n_items + self.train.items
        keys, first = np.unique(pairs, return_index=True)
        _, from_end = np.unique(pairs[::-1], return_index=True)
        return keys, places[first], places[len(rows) - 1 - from_end]


def prompts(
    moments: Moments,
    tokenizer: PreTrainedTokenizerBase,
    catalogue: Catalogue,
    users: Sequence[str],
    task: str,
    history: int,
    wordings: TemplateChoice,
    window: int,
    seed: int,
) -> list[np.ndarray]:
    """Tokens of the prompt of every moment, each in one of the wordings that supervised training has.

    Args:
        moments: whom, and when.
        tokenizer: with the item tokens.
        catalogue: for the codes.
        users: id of each history's user.
        task: that goes from a history to an item, and that supervised training had.
        history: items that a prompt holds at most, the newest.
        wordings: those of training (tasks.templates).
        window: tokens that the model holds; a longer prompt loses the oldest items.
        seed: of the wordings.

    Raises:
        ModelError: a prompt does not fit even with one item.
    """
    known = [wording for wording in templates.load(task).chosen(wordings).train if not wording.needs]
    chosen = stream(seed, "align", "wordings").integers(len(known), size=len(moments))
    tokenize, room = CodedTexts(tokenizer, special=not tokenizer.chat_template), window - catalogue.codes.shape[1]

    def texts(numbers: Sequence[int], held: int) -> list[np.ndarray]:
        asked = [
            next_item_prompt(
                known[chosen[moment]], moments.history(moment)[-held:], catalogue, users[moments.users[moment]]
            )[0]
            for moment in numbers
        ]
        cut = tokenize(pa.array([wrap(tokenizer, prompt)[0] for prompt in asked], pa.string()))
        return [cut.text(number)[0] for number in range(len(asked))]

    found = [
        ids
        for start in range(0, len(moments), 1024)
        for ids in texts(range(start, min(start + 1024, len(moments))), history)
    ]
    for held in range(history - 1, 0, -1):
        long = [moment for moment, ids in enumerate(found) if len(ids) > room]
        if not long:
            break
        for moment, ids in zip(long, texts(long, held), strict=True):
            found[moment] = ids
    if (longest := max(map(len, found))) > room:
        raise ModelError(f"a prompt of one item has {longest} tokens, but the model holds {window} with an answer.")
    return found
