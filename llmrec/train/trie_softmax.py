"""Softmax over the children of a prefix in the catalogue's trie, as in decoding, instead of over the vocabulary.

Codes may then end with a token that only one item has, at little cost: of thousands of such tokens, those with the
same prefix alone are scored.

Source: Morin and Bengio 2005, hierarchical softmax; the tree is the catalogue's trie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue

DENSE = 1024  # up to so many tokens of a level all are scored, and those of other prefixes masked
GATHERED = 2**24  # numbers that are gathered at a time


@dataclass(frozen=True)
class Level:
    """One level of the trie.

    Attributes:
        tokens: (width,) int64 model tokens of the level that items have.
        pairs: (children,) int64 ascending: prefix · width + number of the token, for each child of each prefix.
        starts: (prefixes + 1,) int64, prefix p has the pairs starts[p] to starts[p + 1].
    """

    tokens: Tensor
    pairs: Tensor
    starts: Tensor


@dataclass(frozen=True)
class TrieSoftmax:
    """The catalogue's trie, by level.

    Attributes:
        depth: (tokens,) int64 level of each model token, -1 if it is in no code.
        number: (tokens,) int64 its number among the tokens of its level.
    """

    depth: Tensor
    number: Tensor
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, name: str) -> TrieSoftmax:
        """For a catalogue whose symbols are the model tokens `new`; `name` is of the setting in the recipe.

        Raises:
            ModelError: levels share tokens.
        """
        codes = catalogue.codes
        depth, number = (np.full(int(new.max()) + 1, -1) for _ in range(2))
        prefix, levels = np.zeros(len(codes), np.int64), []
        for level, column in enumerate(codes.T):
            present = column >= 0
            used = np.unique(column[present])
            if (depth[new[used]] >= 0).any():
                raise ModelError(
                    f"{name}: trie needs codes whose levels have tokens of their own, but this indexing.method "
                    "shares them. Set it to full, or choose a method of levels, such as rq-kmeans."
                )
            depth[new[used]], number[new[used]] = level, np.arange(len(used))
            pair = prefix * len(used) + np.searchsorted(used, column)
            pairs = np.unique(pair[present])
            starts = np.searchsorted(pairs, np.arange(prefix.max() + 2) * len(used))
            levels.append(Level(*map(torch.from_numpy, (new[used].astype(np.int64), pairs, starts))))
            prefix = np.where(present, np.searchsorted(pairs, pair), 0)
        return cls(torch.from_numpy(depth), torch.from_numpy(number), tuple(levels))

    def to(self, device: torch.device) -> TrieSoftmax:
        """Copy to a device."""
        levels = (Level(*(part.to(device) for part in vars(level).values())) for level in self.levels)
        return TrieSoftmax(self.depth.to(device), self.number.to(device), tuple(levels))

    def locate(self, tokens: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Find level and prefix of the tokens at some positions.

        Args:
            tokens: (rows, length) int64.
            rows, columns: (positions,) int64.

        Returns:
            (positions,) int64 level, -1 for a token that is in no code of an item;
            (positions,) int64 number of the prefix before it.
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
        """Log-probability of tokens among the children of their prefixes.

        Args:
            states: (positions, width) hidden states before the tokens.
            targets: (positions,) int64 tokens of one level.
            place: number of the level.
            prefix: (positions,) int64 numbers of the prefixes.
            rows: (vocabulary, width) weight of the output layer.
            scale: maps products of states and rows to logits.
            smoothing: share of the target's probability that is spread over all children.

        Returns:
            (positions,) float32 in nats.
        """
        level, own = self.levels[place], self.number[targets]
        if len(level.tokens) <= DENSE or len(level.starts) == 2:  # one prefix has all tokens
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
        order = torch.argsort(counts)  # parts of similar counts need the least padding
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
        """(positions, children) logits, a mask of those that exist, and (positions,) the target's column."""
        width, first = len(level.tokens), level.starts[prefix]
        counts = level.starts[prefix + 1] - first
        child = first[:, None] + torch.arange(int(counts.max()), device=states.device)
        allowed = child < (first + counts)[:, None]
        numbers = level.pairs[child.clamp(max=len(level.pairs) - 1)] % width
        gathered = nn.functional.embedding(level.tokens[numbers], rows)
        logits = scale(torch.bmm(gathered, states[:, :, None].to(gathered.dtype))[:, :, 0].float())
        return logits, allowed, torch.searchsorted(level.pairs, prefix * width + own) - first


def _lookup(table: Tensor, tokens: Tensor) -> Tensor:
    """Entries of a table; -1 for tokens past its end."""
    return torch.where(tokens < len(table), table[tokens.clamp(max=len(table) - 1)], -1)


def _among(logits: Tensor, allowed: Tensor, own: Tensor, smoothing: float) -> Tensor:
    """(positions,) log-probability of one column of each row among the allowed ones, with label smoothing."""
    logprobs = -nn.functional.cross_entropy(logits.masked_fill(~allowed, -torch.inf), own, reduction="none")
    if not smoothing:
        return logprobs
    total = logits.gather(1, own[:, None])[:, 0] - logprobs  # log-sum-exp
    mean = logits.masked_fill(~allowed, 0).sum(1) / allowed.sum(1) - total
    return (1 - smoothing) * logprobs + smoothing * mean
