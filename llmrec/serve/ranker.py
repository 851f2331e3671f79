"""Rankers: one prompt in, its best items out, while other prompts share the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrec.decode.filters import Filter
from llmrec.indexing.catalogue import Catalogue


@dataclass(frozen=True)
class Found:
    """The items for one prompt.

    Attributes:
        items: (k,) item numbers, best first; -1 where the filter left fewer.
        scores: (k,) log-probability in nats; -inf there.
        waited: seconds until the model took it up.
        ranked: seconds of the model and the search.
    """

    items: np.ndarray
    scores: np.ndarray
    waited: float
    ranked: float


class Ranker(Protocol):
    """Ranks the items of one catalogue."""

    async def rank(self, prompt: list[int], width: int, wanted: Filter | None) -> Found:
        """The `width` best items after a prompt, by a search of as many beams.

        Raises:
            RequestError: the prompt does not fit the model.
        """
        ...


class Engine(Protocol):
    """What runs the model."""

    name: str

    def ranker(self, catalogue: Catalogue) -> Ranker:
        """A ranker for a catalogue.

        Raises:
            ModelError: the model lacks tokens of it.
        """
        ...

    async def close(self) -> None:
        """Stop, when nothing is in flight."""
        ...
