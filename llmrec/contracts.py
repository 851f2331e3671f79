"""Data classes and protocols that the rooms of the package share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from llmrec.errors import RequestError


@dataclass(frozen=True)
class Sequences:
    """Many item sequences, oldest item first, as one flat array.

    Attributes:
        offsets: (rows + 1,) int64; row r is items[offsets[r]:offsets[r + 1]].
        items: (events,) int32 item numbers: rows of the dataset's `items` table.
        times: (events,) int64 seconds of each event; None where they are not needed.
    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None = None

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | np.ndarray]) -> Sequences:
        """Pack a list of item sequences."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        return cls(offsets, np.concatenate(arrays) if arrays else np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int64 number of events of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """(events,) int64 row of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)


@dataclass(frozen=True)
class Items:
    """Ids of the items that a model scores, by item number."""

    ids: Sequence[str]

    @classmethod
    def numbered(cls, count: int) -> Items:
        """Items with their numbers as ids."""
        return cls([str(number) for number in range(count)])

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the ids, in order."""
        digest = hashlib.sha256()
        for start in range(0, len(self.ids), 65536):
            digest.update(json.dumps(list(self.ids[start : start + 65536])).encode())
        return digest.hexdigest()


class Sizes(NamedTuple):
    """Size of the data that a model is fitted on."""

    users: int
    items: int
    events: int


class Memory(NamedTuple):
    """Peak memory of a model in bytes: in `fit`, and in `score`."""

    fit: int
    score: int


ScoreKind = Literal["shares", "logits"]
"""Kind of scores: shares, which become probabilities by a power (negative ones count as 0), or logits for a softmax."""


class CollaborativeModel(Protocol):
    """Scores the next item of a history from interactions alone: a baseline, a teacher, a source of item vectors.

    Attributes:
        score_kind: kind of its scores.
        items: that it was fitted on.
    """

    @property
    def score_kind(self) -> ScoreKind: ...

    @property
    def items(self) -> Items: ...

    def fit(self, train: Sequences, items: Items, progress: Callable[[float], None] = lambda share: None) -> Self:
        """Fit on the training part of every history. The order of users does not change the result.

        Args:
            progress: called with the share done, 0 to 1.

        Raises:
            ModelError: the fitted parameters are not finite.
        """
        ...

    def score(self, histories: Sequences) -> np.ndarray:
        """Score every item as the next item of some histories, of known or new users.

        Returns:
            (rows, n_items) float32, finite, larger is better; the caller may write into it. Items of the history
            have scores too: callers exclude them.
        """
        ...

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """Upper bound of its memory, known before `fit`; `rows` histories are scored at once."""
        ...

    def save(self, folder: Path) -> None:
        """Write arrays, parameters and the hash of the items into a folder."""
        ...


@runtime_checkable
class ItemVectors(Protocol):
    """A collaborative model with a vector of each item, from which codes can be fitted."""

    def item_vectors(self) -> np.ndarray:
        """(n_items, width) float32."""
        ...


class ItemSet:
    """A large set of items, such as a category."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask  # (items,) bool by item number
        self.derived: dict[Any, Any] = {}  # what recommenders computed from it, each under its own key


_NO_ITEMS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Request:
    """Input of a recommendation. Items are item numbers of the catalogue.

    Attributes:
        history: item numbers, oldest first; may be empty.
        times: seconds of each event of the history; None if unknown.
        words: the user's wish in words; "" for none.
        user: id of the user, for models that were trained with user ids; "" if unknown.
        allowed: the only items that may be recommended, as item numbers or a set; None for all items.
        denied: (n,) item numbers that may not be recommended, such as those of the history.
    """

    history: Sequence[int] | np.ndarray = ()
    times: Sequence[int] | np.ndarray | None = None
    words: str = ""
    user: str = ""
    allowed: np.ndarray | ItemSet | None = None
    denied: np.ndarray = field(default_factory=lambda: _NO_ITEMS)

    def permits(self, items: np.ndarray) -> np.ndarray:
        """(n,) bool, whether items may be recommended, by item number."""
        fine = ~np.isin(items, self.denied)
        if isinstance(self.allowed, ItemSet):
            return fine & self.allowed.mask[items]
        return fine if self.allowed is None else fine & np.isin(items, self.allowed)


@dataclass(frozen=True)
class Ranked:
    """Recommended items for some requests, best first.

    Attributes:
        items: (rows, k) int32 item numbers, distinct in a row; -1 at the end where fewer than k may be recommended.
        scores: (rows, k) float32 log-probabilities in nats, falling; -inf where there is no item.
    """

    items: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, rows: int, k: int) -> Ranked:
        """Lists without items."""
        return cls(np.full((rows, k), -1, np.int32), np.full((rows, k), -np.inf, np.float32))


def check_k(k: int, n_items: int) -> None:
    """Raise RequestError if k is not between 1 and the number of items."""
    if not 1 <= k <= n_items:
        raise RequestError(f"k must be between 1 and the catalogue's {n_items} items, not {k}.")


class Recommender(Protocol):
    """Ranks items of one catalogue. Evaluation, server, export and chat all use this protocol.

    A filter removes items and does not change the order of the others or the differences of their scores. There is one
    exception: where it denies items of the history, scores may be conditioned on a new item.

    Attributes:
        n_items: items of the catalogue.
        reads: the fields of a request that it uses, of `history`, `times`, `words` and `user`.
        reads_items: how many of the newest items of a history it uses; None for all.
    """

    @property
    def n_items(self) -> int: ...

    @property
    def reads(self) -> frozenset[str]: ...

    @property
    def reads_items(self) -> int | None: ...

    def check(self, request: Request) -> None:
        """Raise RequestError for a request that it cannot answer; called before requests are batched."""
        ...

    def notes(self, request: Request) -> list[str]:
        """Sentences for the client about parts of a request that are not used; [] if all are used."""
        ...

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """Rank the k best items for each request, whatever other requests share the batch.

        Args:
            requests: one for each row of the result.
            k: number of items, 1 to `n_items`.

        Raises:
            RequestError: `check` refuses a request, or k is out of range.
        """
        ...


Cases = TypeVar("Cases", contravariant=True)


class Predictor(Protocol[Cases]):
    """Predicts a number for each case of a user and an item, such as a rating."""

    def predict(self, cases: Cases) -> np.ndarray:
        """Return (cases,) float64, finite, without reading the values to be predicted."""
        ...
