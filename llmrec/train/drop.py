"""History dropout: items of a history left out by chance, others in every epoch, so that no item hangs on one other.

What is left is a sub-sequence of the history. The last item of an example always stays: it is what is asked for, or
what an answer in words is about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.seed import stream
from llmrec.train.coded import Coded
from llmrec.train.encode import Encoded


@dataclass(frozen=True)
class Drop:
    """Which items are left out; the same for an example and an epoch, whoever asks, and when.

    Attributes:
        share: probability of each item to be left out.
        coded: finds items in an example.
        seed: of the run.
        part: number of the training stage.
    """

    share: float
    coded: Coded
    seed: int
    part: int

    def __call__(self, example: Encoded, number: int, epoch: int) -> Encoded:
        """An example without the items that are left out; of three items or more, and at least two are kept.

        Args:
            example: as it was encoded.
            number: of the example among all.
            epoch: from 0.
        """
        begins, stops = self.coded.spans(example.tokens)
        if len(stops) < 3:
            return example
        gone = stream(self.seed, "drop", self.part, epoch, number).random(len(stops)) < self.share
        gone[-1] = False
        gone[-2] &= not gone[:-2].all()
        kept = np.ones(len(example.tokens), bool)
        for begin, stop in zip(begins[gone].tolist(), stops[gone].tolist(), strict=True):
            kept[begin : stop + 1] = False
        return Encoded(example.tokens[kept], example.supervised[kept])
