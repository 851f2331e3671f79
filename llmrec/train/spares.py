"""Spare tokens are learnt before any item has them: in training, a few items wear one in place of their own.

A new item shares its prefix with known ones and gets a token of the separating level that none of them has. Had the
model never seen it there, it would hold every new item for impossible. So an item of an example now and then takes part
under its own prefix and such a token, in the prompt and in the answer alike: half the time the token that its prefix
would give out next (`indexing.build.extend`), half the time one that no item has anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.indexing.catalogue import Catalogue
from llmrec.seed import stream


@dataclass(frozen=True)
class Spares:
    """Which items of an example wear a spare token; the same for an example whoever encodes it, and when.

    Attributes:
        separating: (n,) int64 model tokens of the separating level, spares included.
        inner: (…,) int64 model tokens of the levels before it.
        spare: (m,) int64 those that no item has, m > 0.
        following: prefix of model tokens → the token that its next new item gets, where there is one left.
        levels: tokens of the longest code.
        share: of the items of an example.
        seed: of the run.
        part: number of the training stage, so that another stage lends to others.
    """

    separating: np.ndarray
    inner: np.ndarray
    spare: np.ndarray
    following: dict[tuple[int, ...], int]
    levels: int
    share: float
    seed: int
    part: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, share: float, seed: int, part: int) -> Spares | None:
        """Of a catalogue.

        Args:
            catalogue: items and codes.
            new: (tokens,) model tokens of the catalogue's.
            share: of the items of an example.
            seed: of the run.
            part: number of the training stage.

        Returns:
            None where the catalogue has no spare tokens, or nothing is to be lent.
        """
        last, ends = np.arange(len(catalogue.tokens))[catalogue.first_of_last :], catalogue.prefixes[1]
        free = np.setdiff1d(last, ends)
        if not len(free) or not share or catalogue.ends not in ("separating", "own"):
            return None
        highest: dict[tuple[int, ...], int] = {}
        separated = catalogue.codes.tolist() if catalogue.ends == "separating" else []
        for *prefix, symbol in ([symbol for symbol in row if symbol >= 0] for row in separated):
            highest[tuple(new[prefix].tolist())] = max(highest.get(tuple(new[prefix].tolist()), -1), symbol)
        following = {prefix: int(new[symbol + 1]) for prefix, symbol in highest.items() if symbol < last[-1]}
        return cls(new[last], new[: last[0]], new[free], following, catalogue.codes.shape[1], share, seed, part)

    def lend(self, tokens: np.ndarray, number: int) -> np.ndarray:
        """An example in which some items wear a spare token, each the same one wherever it stands.

        Args:
            tokens: (length,) int64.
            number: of the example among all.

        Returns:
            (length,) int64.
        """
        places = np.flatnonzero(np.isin(tokens, self.separating))
        if not len(places):
            return tokens
        draw = stream(self.seed, "spares", self.part, number)
        outside = np.append(-1, np.flatnonzero(~np.isin(tokens, self.inner)))
        begins = np.maximum(outside[np.searchsorted(outside, places) - 1] + 1, places + 1 - self.levels)
        spans = zip(begins.tolist(), places.tolist(), strict=True)
        codes = [tuple(tokens[begin : place + 1]) for begin, place in spans]
        lent = {code: self._free(code, draw) for code in dict.fromkeys(codes) if draw.random() < self.share}
        worn = tokens.copy()
        worn[places] = [lent.get(code, code[-1]) for code in codes]
        return worn

    def _free(self, code: tuple[int, ...], draw: np.random.Generator) -> int:
        spare, after = int(draw.choice(self.spare)), draw.random() < 0.5
        return self.following.get(code[:-1], spare) if after else spare
