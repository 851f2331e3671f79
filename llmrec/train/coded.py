"""Where the codes of items stand among the tokens of an example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.indexing.catalogue import Catalogue


@dataclass(frozen=True)
class Coded:
    """Finds the codes in an example by the kinds of their tokens; a code that wears a spare token is found, too.

    Attributes:
        ends: (n,) int64 model tokens that end a code.
        inner: (m,) int64 model tokens of codes that do not.
        longest: tokens of the longest code.
    """

    ends: np.ndarray
    inner: np.ndarray
    longest: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray) -> Coded:
        """Of a catalogue, whose tokens are the model's `new`."""
        first, count = catalogue.first_of_last, len(catalogue.tokens)
        return cls(new[first:count], new[:first], catalogue.codes.shape[1])

    def spans(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes,) int64 where each code begins, and (codes,) int64 where its last token stands."""
        stops = np.flatnonzero(np.isin(tokens, self.ends))
        outside = np.append(-1, np.flatnonzero(~np.isin(tokens, self.inner)))
        return np.maximum(outside[np.searchsorted(outside, stops) - 1], stops - self.longest) + 1, stops
