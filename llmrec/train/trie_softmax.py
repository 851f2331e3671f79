"""A softmax over the catalogue's trie: a code token competes with the tokens that items have in its place alone.

Decoding shares probability over the trie's children, so what a model learns about all other tokens is never used.
Codes may then end with a token of each item's own at no cost: of thousands of those, only the few behind the same
prefix are scored.

Source: Morin and Bengio 2005, hierarchical softmax, with the catalogue's trie for the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue

DENSE = 1024  # tokens of a level up to which all of them are scored, and those behind other prefixes masked
GATHERED = 2**24  # numbers of rows that are gathered at a time


@dataclass(frozen=True)
class Level:
    """The tokens of one place in a code, and the prefixes behind which they stand.

    Attributes:
        tokens: (width,) int64 the model's, reserved ones left out.
        pairs: (children,) int64 ascending: prefix · width + number of the token, for every pair that an item has.
        starts: (prefixes + 1,) int64, prefix p has the pairs starts[p] to starts[p + 1].
    """

    tokens: Tensor
    pairs: Tensor
    starts: Tensor


@dataclass(frozen=True)
class TrieSoftmax:
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
    def of(cls, catalogue: Catalogue, new: np.ndarray, name: str) -> TrieSoftmax:
        """Of a catalogue whose symbols are the model's tokens `new`; `name` is the setting's in the recipe.

        Raises:
            ModelError: codes share tokens between their places.
        """
        codes = catalogue.codes
        depth, number = (np.full(int(new.max()) + 1, -1) for _ in range(2))
        prefix, levels = np.zeros(len(codes), np.int64), []
        for place, column in enumerate(codes.T):
            present = column >= 0
            used = np.unique(column[present])
            if (depth[new[used]] >= 0).any():
                raise ModelError(
                    f"{name}: trie needs codes whose places have tokens of their own, and this indexing.method "
                    "shares them. Set it to full, or take a method of levels, such as rq-kmeans."
                )
            depth[new[used]], number[new[used]] = place, np.arange(len(used))
            pair = prefix * len(used) + np.searchsorted(used, column)
            pairs = np.unique(pair[present])
            starts = np.searchsorted(pairs, np.arange(prefix.max() + 2) * len(used))
            levels.append(Level(*map(torch.from_numpy, (new[used].astype(np.int64), pairs, starts))))
            prefix = np.where(present, np.searchsorted(pairs, pair), 0)
        return cls(torch.from_numpy(depth), torch.from_numpy(number), tuple(levels))

    def to(self, device: torch.device) -> TrieSoftmax:
        """On a device."""
        levels = (Level(*(part.to(device) for part in vars(level).values())) for level in self.levels)
        return TrieSoftmax(self.depth.to(device), self.number.to(device), tuple(levels))

    def locate(self, tokens: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Where in a code the tokens at some positions stand.

        Args:
            tokens: (rows, length) int64.
            rows, columns: (positions,) int64.

        Returns:
            (positions,) int64 the level, -1 for a token in no code, a reserved one, or one that no item has there;
            (positions,) int64 the prefix it stands behind.
        """
        depth = _lookup(self.depth, tokens[rows, columns])
        prefix = torch.zeros_like(depth)
        for place, level in enumerate(self.levels):
            inside = torch.nonzero(depth >= place)[:, 0]
            token = tokens[rows[inside], (columns[inside] - depth[inside] + place).clamp(min=0)]
            pair = prefix[inside] * len(level.tokens) + _lookup(self.number, token)
            child = torch.searchsorted(level.pairs, pair).clamp(max=len(level.pairs) - 1)
            known = (level.pairs[child] == pair) & (_lookup(self.depth, token) == place)
            prefix[inside] = torch.where(depth[inside] > place, child, prefix[inside])
            depth[inside[~known]] = -1
        return depth, prefix

    def logprobs(
        self,
        states: Tensor,
        targets: Tensor,
        place: int,
        prefix: Tensor,
        rows: Tensor,
        scale: Callable[[Tensor], Tensor] = lambda logits: logits,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Log-probability of tokens among those that may stand in their place.

        Args:
            states: (positions, width) hidden states before them.
            targets: (positions,) int64 tokens of one level.
            place: that level.
            prefix: (positions,) int64 what they stand behind.
            rows: (vocabulary, width) of the output layer.
            scale: what the model makes of the products of states and rows.
            smoothing: share of the target's probability that goes to all tokens in its place alike.

        Returns:
            (positions,) float32 in nats.
        """
        level, own = self.levels[place], self.number[targets]
        if len(level.tokens) <= DENSE or len(level.starts) == 2:  # behind one prefix stand all of them
            logits = scale(nn.functional.linear(states, nn.functional.embedding(level.tokens, rows)).float())
            prefixes, inverse = torch.unique(prefix, return_inverse=True)
            allowed = torch.zeros((len(prefixes), len(level.tokens)), dtype=torch.bool, device=states.device)
            counts = level.starts[prefixes + 1] - level.starts[prefixes]
            group = torch.repeat_interleave(torch.arange(len(prefixes), device=states.device), counts)
            within = torch.arange(len(group), device=states.device) - (counts.cumsum(0) - counts)[group]
            child = level.starts[prefixes][group] + within
            allowed[group, level.pairs[child] - prefixes[group] * len(level.tokens)] = True
            return _among(logits, allowed[inverse], own, smoothing)
        counts = level.starts[prefix + 1] - level.starts[prefix]
        order = torch.argsort(counts)  # parts of like counts are padded least
        size = max(1, GATHERED // (rows.shape[1] * int(counts.max())))
        parts = [
            _among(*self._gathered(states[part], own[part], level, prefix[part], rows, scale), smoothing)
            for part in order.split(size)
        ]
        return torch.cat(parts)[torch.argsort(order)]

    @staticmethod
    def _gathered(
        states: Tensor, own: Tensor, level: Level, prefix: Tensor, rows: Tensor, scale: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(positions, most) logits of the children of each prefix, which of them exist, (positions,) its own column."""
        width, first = len(level.tokens), level.starts[prefix]
        counts = level.starts[prefix + 1] - first
        child = first[:, None] + torch.arange(int(counts.max()), device=states.device)
        allowed = child < (first + counts)[:, None]
        numbers = level.pairs[child.clamp(max=len(level.pairs) - 1)] % width
        gathered = nn.functional.embedding(level.tokens[numbers], rows)
        logits = scale(torch.bmm(gathered, states[:, :, None].to(gathered.dtype))[:, :, 0].float())
        return logits, allowed, torch.searchsorted(level.pairs, prefix * width + own) - first


def _lookup(table: Tensor, tokens: Tensor) -> Tensor:
    """Entries of a table, -1 for tokens past its end."""
    return torch.where(tokens < len(table), table[tokens.clamp(max=len(table) - 1)], -1)


def _among(logits: Tensor, allowed: Tensor, own: Tensor, smoothing: float) -> Tensor:
    """(positions,) log-probability of one column of each row among the allowed ones, smoothed."""
    logprobs = -nn.functional.cross_entropy(logits.masked_fill(~allowed, -torch.inf), own, reduction="none")
    if not smoothing:
        return logprobs
    total = logits.gather(1, own[:, None])[:, 0] - logprobs  # what the logits are normalised by
    mean = logits.masked_fill(~allowed, 0).sum(1) / allowed.sum(1) - total
    return (1 - smoothing) * logprobs + smoothing * mean
