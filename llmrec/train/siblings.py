"""A softmax over what the catalogue allows: a code token competes with the tokens that could stand in its place alone.

Decoding shares probability over the trie's children, so what a model learns about all other tokens is never asked for.
Trained by the same rule it need not learn it, and codes may end with a token of each item's own at no cost: of
thousands of those, only the few behind the same beginning are scored. (Tree-structured outputs: Morin and Bengio 2005,
hierarchical softmax, with the catalogue's trie for the tree.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue

DENSE = 1024  # tokens of a level up to which all of them are scored and the strangers masked
GATHERED = 2**24  # numbers of rows that are gathered at a time
Shape = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Level:
    """The tokens of one place in a code, and behind which beginnings they stand.

    Attributes:
        tokens: (width,) int64 the model's, spares left out.
        pairs: (children,) int64 ascending: beginning · width + number of the token, for every pair that an item has.
        starts: (beginnings + 1,) int64, beginning b has the pairs starts[b] to starts[b + 1].
    """

    tokens: Tensor
    pairs: Tensor
    starts: Tensor


@dataclass(frozen=True)
class Siblings:
    """Where code tokens stand, and what may stand there.

    Attributes:
        depth: (tokens,) int64 level of each of the model's tokens, -1 of those in no code.
        number: (tokens,) int64 its number among those of its level.
        levels: from the first to the last.
    """

    depth: Tensor
    number: Tensor
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, name: str) -> Siblings:
        """Of a catalogue, whose tokens are the model's `new`.

        Args:
            catalogue: items and codes.
            new: (at least n_symbols,) the model's token of each symbol.
            name: of the setting in the recipe, for messages.

        Raises:
            ModelError: codes share tokens between their places.
        """
        codes = catalogue.codes
        depth, number = (np.full(int(new.max()) + 1, -1) for _ in range(2))
        beginning, levels = np.zeros(len(codes), np.int64), []
        for place, column in enumerate(codes.T):
            used = np.unique(column[column >= 0])
            if (depth[new[used]] >= 0).any():
                raise ModelError(
                    f"{name}: catalogue needs codes whose places have tokens of their own, and this indexing.method "
                    "shares them. Set it to vocabulary, or take a method of levels, such as rq-kmeans."
                )
            depth[new[used]], number[new[used]] = place, np.arange(len(used))
            here = column >= 0
            pair = beginning * len(used) + np.searchsorted(used, column)
            pairs = np.unique(pair[here])
            starts = np.searchsorted(pairs, np.arange(beginning.max() + 2) * len(used))
            levels.append(Level(*map(torch.from_numpy, (new[used].astype(np.int64), pairs, starts))))
            beginning = np.where(here, np.searchsorted(pairs, pair), 0)
        return cls(torch.from_numpy(depth), torch.from_numpy(number), tuple(levels))

    def to(self, device: torch.device) -> Siblings:
        """On a device."""
        levels = (
            Level(level.tokens.to(device), level.pairs.to(device), level.starts.to(device)) for level in self.levels
        )
        return Siblings(self.depth.to(device), self.number.to(device), tuple(levels))

    def places(self, tokens: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Where in a code some tokens stand.

        Args:
            tokens: (rows, length) int64.
            rows, columns: (positions,) int64, which of them.

        Returns:
            (positions,) int64 the level, -1 for a token in no code, a spare one, or one that no item has there;
            (positions,) int64 the beginning it stands behind.
        """
        depth = self._of(self.depth, tokens[rows, columns])
        beginning = torch.zeros_like(depth)
        for place in range(len(self.levels)):
            here = torch.nonzero(depth >= place)[:, 0]
            token = tokens[rows[here], (columns[here] - depth[here] + place).clamp(min=0)]
            found, at = self._child(place, beginning[here], token)
            beginning[here] = torch.where(depth[here] > place, at, beginning[here])
            depth[here[~found]] = -1
        return depth, beginning

    def _child(self, place: int, beginning: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Whether tokens stand behind beginnings on a level, and the beginnings that they make."""
        level = self.levels[place]
        pair = beginning * len(level.tokens) + self._of(self.number, tokens)
        at = torch.searchsorted(level.pairs, pair).clamp(max=len(level.pairs) - 1)
        return (level.pairs[at] == pair) & (self._of(self.depth, tokens) == place), at

    @staticmethod
    def _of(table: Tensor, tokens: Tensor) -> Tensor:
        return torch.where(tokens < len(table), table[tokens.clamp(max=len(table) - 1)], -1)

    def logprobs(
        self,
        states: Tensor,
        targets: Tensor,
        place: int,
        beginning: Tensor,
        rows: Tensor,
        shape: Shape = lambda logits: logits,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Log-probability of tokens among their siblings.

        Args:
            states: (positions, width) hidden states before them.
            targets: (positions,) int64 tokens of one level.
            place: that level.
            beginning: (positions,) int64 what they stand behind.
            rows: (vocabulary, width) of the output layer.
            shape: what the model makes of what these give.
            smoothing: share of the target's probability that goes to all siblings alike.

        Returns:
            (positions,) float32 in nats.
        """
        level, own = self.levels[place], self.number[targets]
        if len(level.tokens) <= DENSE or len(level.starts) == 2:  # behind one beginning stand all of them
            logits = shape(nn.functional.linear(states, nn.functional.embedding(level.tokens, rows)).float())
            beginnings, inverse = torch.unique(beginning, return_inverse=True)
            allowed = torch.zeros((len(beginnings), len(level.tokens)), dtype=torch.bool, device=states.device)
            group, child = _spread(level.starts, beginnings)
            allowed[group, level.pairs[child] - beginnings[group] * len(level.tokens)] = True
            return _among(logits, allowed[inverse], own, smoothing)
        counts = level.starts[beginning + 1] - level.starts[beginning]
        order = torch.argsort(counts)  # pieces of like counts are padded least
        size = max(1, GATHERED // (rows.shape[1] * int(counts.max())))
        parts = [
            _among(*self._gathered(states[piece], own[piece], level, beginning[piece], rows, shape), smoothing)
            for piece in order.split(size)
        ]
        return torch.cat(parts)[torch.argsort(order)]

    @staticmethod
    def _gathered(
        states: Tensor, own: Tensor, level: Level, beginning: Tensor, rows: Tensor, shape: Shape
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(positions, most) logits of each one's siblings, which of them there are, and (positions,) its own column."""
        width, first = len(level.tokens), level.starts[beginning]
        counts = level.starts[beginning + 1] - first
        child = first[:, None] + torch.arange(int(counts.max()), device=states.device)
        allowed = child < (first + counts)[:, None]
        numbers = level.pairs[child.clamp(max=len(level.pairs) - 1)] % width
        gathered = nn.functional.embedding(level.tokens[numbers], rows)
        logits = shape(torch.bmm(gathered, states[:, :, None].to(gathered.dtype))[:, :, 0].float())
        return logits, allowed, torch.searchsorted(level.pairs, beginning * width + own) - first


def _among(logits: Tensor, allowed: Tensor, own: Tensor, smoothing: float) -> Tensor:
    """(positions,) log-probability of one column of each row among the allowed ones, smoothed."""
    logprobs = -nn.functional.cross_entropy(logits.masked_fill(~allowed, -torch.inf), own, reduction="none")
    if not smoothing:
        return logprobs
    total = logits.gather(1, own[:, None])[:, 0] - logprobs  # what the logits are normalised by
    spread = logits.masked_fill(~allowed, 0).sum(1) / allowed.sum(1) - total
    return (1 - smoothing) * logprobs + smoothing * spread


def _spread(starts: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Group number and place of every member of some groups, whose members lie from starts[g] to starts[g + 1]."""
    counts = starts[groups + 1] - starts[groups]
    group = torch.repeat_interleave(torch.arange(len(groups), device=starts.device), counts)
    within = torch.arange(len(group), device=starts.device) - (counts.cumsum(0) - counts)[group]
    return group, starts[groups][group] + within
