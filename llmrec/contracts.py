"""The few shapes that floors hand to one another. Everything here is plain data or a protocol."""

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
        items: (events,) int32, row numbers of the dataset's `items` table.
        times: (events,) int64 seconds, of each event; None where nothing reads them.
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
        """(rows,) int64, events of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """(events,) int64, the row that each event belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)


@dataclass(frozen=True)
class Items:
    """The items that a model scores; `ids` are their ids by item number."""

    ids: Sequence[str]

    @classmethod
    def numbered(cls, count: int) -> Items:
        """Items whose ids are their numbers, where a data set has no others."""
        return cls([str(number) for number in range(count)])

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the ids in their order."""
        digest = hashlib.sha256()
        for start in range(0, len(self.ids), 65536):
            digest.update(json.dumps(list(self.ids[start : start + 65536])).encode())
        return digest.hexdigest()


class Sizes(NamedTuple):
    """How much data a model is fitted on."""

    users: int
    items: int
    events: int


class Memory(NamedTuple):
    """Bytes that a model holds at its peak: in `fit`, and while a fitted one scores some histories."""

    fit: int
    score: int


ScoreKind = Literal["shares", "logits"]
"""What scores are: shares (below 0 counts as 0), whose powers are probabilities; or logits, for a softmax."""


class CollaborativeModel(Protocol):
    """Scores items after a history by what users did: a baseline, a teacher, a source of negatives or of vectors.

    Attributes:
        score_kind: what its scores are.
        items: the items that it was fitted on.
    """

    @property
    def score_kind(self) -> ScoreKind: ...

    @property
    def items(self) -> Items: ...

    def fit(self, train: Sequences, items: Items, progress: Callable[[float], None] = lambda share: None) -> Self:
        """Learn from the training part of every history; the order of users changes nothing.

        Args:
            progress: called with the share done, 0 to 1.

        Raises:
            ModelError: training ended with numbers that are not finite.
        """
        ...

    def score(self, histories: Sequences) -> np.ndarray:
        """Score every item as the next one of some histories, of whatever users.

        Returns:
            (rows, n_items) float32, finite, larger is better; the caller may write into it. Nothing is excluded;
            callers exclude items of the history.
        """
        ...

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """An upper bound of what it needs, known before it is fitted.

        Args:
            sizes: of the training part.
            rows: histories that are scored at once.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write arrays, parameters and a hash of the items into a folder."""
        ...


@runtime_checkable
class ItemVectors(Protocol):
    """A collaborative model that learns a vector of each item, which codes may be made from."""

    def item_vectors(self) -> np.ndarray:
        """(n_items, width) float32."""
        ...


class ItemSet:
    """A large set of items, such as a category."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask  # (items,) bool by item number
        self.derived: dict[Any, Any] = {}  # what a recommender made of it, by a key of its own


_NO_ITEMS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Request:
    """What a recommendation is made for. Items are numbers of the catalogue.

    Attributes:
        history: item numbers, oldest first; may be empty.
        times: seconds of each event of the history; None where they are not known.
        words: what the user wants, in words; "" for nothing.
        user: id of the user, for models that were trained with ids of users; "" for nobody known.
        allowed: the only items that may be recommended: item numbers or a set; None for every item.
        denied: (n,) item numbers that are never recommended, such as those of the history.
    """

    history: Sequence[int] | np.ndarray = ()
    times: Sequence[int] | np.ndarray | None = None
    words: str = ""
    user: str = ""
    allowed: np.ndarray | ItemSet | None = None
    denied: np.ndarray = field(default_factory=lambda: _NO_ITEMS)

    def permits(self, items: np.ndarray) -> np.ndarray:
        """(n,) bool, whether each of some item numbers may be recommended."""
        fine = ~np.isin(items, self.denied)
        if isinstance(self.allowed, ItemSet):
            return fine & self.allowed.mask[items]
        return fine if self.allowed is None else fine & np.isin(items, self.allowed)


@dataclass(frozen=True)
class Ranked:
    """Recommended items of some requests, best first.

    Attributes:
        items: (rows, k) int32 item numbers, distinct; -1 after the last, where fewer than k may be recommended.
        scores: (rows, k) float32 log-probabilities in nats, falling; -inf where there is no item.
    """

    items: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, rows: int, k: int) -> Ranked:
        """Lists without an item yet."""
        return cls(np.full((rows, k), -1, np.int32), np.full((rows, k), -np.inf, np.float32))


def check_k(k: int, n_items: int) -> None:
    """Raise RequestError where a list of k items over a catalogue cannot be."""
    if not 1 <= k <= n_items:
        raise RequestError(f"k must be between 1 and the catalogue's {n_items} items, not {k}.")


class Recommender(Protocol):
    """Ranks items of one catalogue: everything that is judged, served, exported and chatted with.

    A filter takes items out, and leaves the order of the others and the differences of their scores as they are. Only
    where it denies items of the history may the others be weighed anew: the next item is then one that is new.

    Attributes:
        n_items: items of the catalogue.
        reads: which of `history`, `times`, `words` and `user` of a request it looks at.
        reads_items: how many of the newest items of a history it looks at; None for all.
    """

    @property
    def n_items(self) -> int: ...

    @property
    def reads(self) -> frozenset[str]: ...

    @property
    def reads_items(self) -> int | None: ...

    def check(self, request: Request) -> None:
        """Raise RequestError for a request that it cannot answer, before it shares a batch with others."""
        ...

    def notes(self, request: Request) -> list[str]:
        """What of a request it does not look at, in words for the client; [] where it looks at everything."""
        ...

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """The k best items for each request; the others in a batch change nothing.

        Args:
            requests: one a row.
            k: items wanted, 1 to `n_items`.

        Raises:
            RequestError: a request that `check` refuses, or k out of range.
        """
        ...


Pairs = TypeVar("Pairs", contravariant=True)


class Predictor(Protocol[Pairs]):
    """Predicts a number for pairs of user and item: a rating, a click, an answer to a question with few answers."""

    def predict(self, pairs: Pairs) -> np.ndarray:
        """(pairs,) float64, finite; reads nothing of what is to be predicted."""
        ...
