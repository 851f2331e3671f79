"""What items and words mean, as vectors of one encoder: descriptions of items, and how near items are to a wish."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from llmrec.chat.store import Store
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.folder import read_vectors
from llmrec.items.vectors import encode
from llmrec.run.layout import RunFolder, recipe_of

_KEPT = 500  # sayings whose vectors are remembered


class Meanings:
    """Vectors of the items of a store."""

    def __init__(self, encoder: str, vectors: np.ndarray) -> None:
        """Keep vectors.

        Args:
            encoder: that made them, a key of `ENCODERS`; it also reads what people say.
            vectors: (items, dim) float32 of length 1, in the order of the store.
        """
        self.encoder, self.vectors = encoder, vectors
        self._said: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, store: Store, encoder: str, run: Path | None = None) -> Meanings:
        """The vectors of a run where it has them, else made from titles and attributes.

        Args:
            run: a run folder whose vectors of items may be used; an export has none.
        """
        known = _saved(run, encoder) if run else {}
        missing = [at for at, thing in enumerate(store.things) if thing.item_id not in known]
        made = encode([_text(store, at) for at in missing], encoder) if missing else np.zeros((0, 0), np.float32)
        new = dict(zip(missing, made, strict=True))
        rows = [new[at] if at in new else known[thing.item_id] for at, thing in enumerate(store.things)]
        return cls(encoder, np.stack(rows).astype(np.float32))

    def like(self, words: str) -> np.ndarray:
        """(items,) cosine of each item to some words."""
        with self._lock:
            if words not in self._said:
                self._said = {} if len(self._said) >= _KEPT else self._said
                self._said[words] = encode([words], self.encoder)[0]
            return self.vectors @ self._said[words]

    def near(self, number: int) -> np.ndarray:
        """(items,) cosine of each item to an item."""
        return self.vectors @ self.vectors[number]

    def nearest(self, words: str, k: int) -> list[tuple[int, float]]:
        """(item number, cosine) of the k items nearest to some words."""
        scores = self.like(words)
        return [(int(at), float(scores[at])) for at in np.argsort(-scores, kind="stable")[:k]]


def _text(store: Store, number: int) -> str:
    traits = [f"{name}: {value}" for name, value in store.traits(number)]
    return "; ".join([store.things[number].title or store.things[number].item_id, *traits])


def _saved(folder: Path, encoder: str) -> dict[str, np.ndarray]:
    """Vectors of a run by item id; none where it has none of this encoder, as an export."""
    run = RunFolder(folder)
    if not run.is_run() or recipe_of(folder).items.encoder != encoder:
        return {}
    ids = Catalogue.load(run.catalogue).item_ids
    return dict(zip(ids, read_vectors(run.items, len(ids)), strict=True))
