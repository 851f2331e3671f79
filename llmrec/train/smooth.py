"""Label smoothing within a level: a share of a token's probability goes to all tokens that could stand in its place.

An item that was not taken is not wrong, only less right. Smoothing over the whole vocabulary would teach the model to
write words, or tokens of another level, where an item's code goes on; so the share stays on the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.indexing.catalogue import Catalogue


@dataclass(frozen=True)
class Smooth:
    """Which tokens share what is taken off a target.

    Attributes:
        share: of a target's probability, 0 to 1.
        level: (vocabulary,) int64 level of each token, -1 of those that belong to no code.
        tokens: level → (n,) int64 the tokens of it that items have.
    """

    share: float
    level: Tensor
    tokens: tuple[Tensor, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, share: float) -> Smooth:
        """Of a catalogue: levels by the kind of a token, spares that no item has left out.

        Args:
            catalogue: items and codes.
            new: (at least n_symbols,) the model's token of each symbol.
            share: of a target's probability.
        """
        kind = np.repeat(np.arange(len(catalogue.widths)), catalogue.widths)
        used = np.unique(catalogue.codes[catalogue.codes >= 0])
        level = np.full(int(new.max()) + 1, -1)
        level[new[used]] = kind[used]
        tokens = [new[used[kind[used] == number]] for number in range(len(catalogue.widths))]
        return cls(share, torch.from_numpy(level), tuple(torch.from_numpy(one) for one in tokens))

    def smoothed(self, logits: Tensor, targets: Tensor, logprobs: Tensor) -> Tensor:
        """What stands in the place of a target's log-probability: its own, and the mean over its level, by the share.

        Args:
            logits: (positions, vocabulary) float32.
            targets: (positions,) int64.
            logprobs: (positions,) float32, of the targets.

        Returns:
            (positions,) float32 in nats; of targets in no code, their log-probability as it was.
        """
        known = targets.clamp(max=len(self.level) - 1)
        level = self.level.to(targets.device)[known].where(targets == known, -1)
        total = logits.gather(1, targets[:, None])[:, 0] - logprobs  # what the logits are normalised by
        for number, tokens in enumerate(self.tokens):
            rows = torch.nonzero(level == number)[:, 0]
            if len(rows) and len(tokens):
                spread = logits[rows][:, tokens.to(targets.device)].mean(1) - total[rows]
                logprobs = logprobs.index_put((rows,), (1 - self.share) * logprobs[rows] + self.share * spread)
        return logprobs
