"""History dropout: items of a history left out by chance, others in every epoch, so that no item hangs on one other.

What is left is a sub-sequence of the history. The last item of an example always stays: it is what is asked for, or
what an answer in words is about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.indexing.catalogue import Catalogue
from llmrec.seed import stream
from llmrec.train.encode import Encoded


@dataclass(frozen=True)
class Drop:
    """Which items are left out; the same for an example and an epoch, whoever asks, and when.

    Attributes:
        share: probability of each item to be left out.
        ends: (n,) int64 model tokens that end a code.
        inner: (m,) int64 model tokens of codes that do not.
        longest: tokens of the longest code.
        seed: of the run.
        part: number of the training stage.
    """

    share: float
    ends: np.ndarray
    inner: np.ndarray
    longest: int
    seed: int
    part: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, share: float, seed: int, part: int) -> Drop | None:
        """Of a catalogue, whose tokens are the model's `new`; None where nothing is to be left out."""
        if not share:
            return None
        first, count = catalogue.first_of_last, len(catalogue.tokens)
        return cls(share, new[first:count], new[:first], catalogue.codes.shape[1], seed, part)

    def thinned(self, example: Encoded, number: int, epoch: int) -> Encoded:
        """An example without the items that are left out; of three items or more, and at least two are kept.

        Args:
            example: as it was encoded.
            number: of the example among all.
            epoch: from 0.
        """
        stops = np.flatnonzero(np.isin(example.tokens, self.ends))
        if len(stops) < 3:
            return example
        gone = stream(self.seed, "drop", self.part, epoch, number).random(len(stops)) < self.share
        gone[-1] = False
        gone[-2] &= not gone[:-2].all()
        outside = np.append(-1, np.flatnonzero(~np.isin(example.tokens, self.inner)))
        begins = np.maximum(outside[np.searchsorted(outside, stops) - 1], stops - self.longest) + 1
        kept = np.ones(len(example.tokens), bool)
        for begin, stop in zip(begins[gone].tolist(), stops[gone].tolist(), strict=True):
            kept[begin : stop + 1] = False
        return Encoded(example.tokens[kept], example.supervised[kept])
