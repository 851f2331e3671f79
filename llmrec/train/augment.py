"""Data augmentation: item dropout, replacement by a teacher's predictions, and reserved tokens.

Each is a function of seed, training stage, number of the example and (except for reserved tokens) epoch, so a resumed
training sees the same examples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from llmrec.collaborative import topk_probabilities
from llmrec.contracts import CollaborativeModel, Sequences
from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.seed import stream
from llmrec.train.encode import Encoded

_BLOCK = 1024  # histories that a teacher scores at once; each has a score for every item


@dataclass(frozen=True)
class CodeSpans:
    """Finds the codes of items in an example, also those with a reserved token.

    Attributes:
        ends: (n,) int64 model tokens that end a code.
        inner: (m,) int64 model tokens of codes that do not end one.
        longest: tokens of the longest code.
    """

    ends: np.ndarray
    inner: np.ndarray
    longest: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray) -> CodeSpans:
        """For a catalogue whose symbols are the model tokens `new`."""
        first, count = catalogue.first_of_last, len(catalogue.tokens)
        return cls(new[first:count], new[:first], catalogue.codes.shape[1])

    def find(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the first and of the last token of each code, (codes,) int64 each."""
        stops = np.flatnonzero(np.isin(tokens, self.ends))
        outside = np.append(-1, np.flatnonzero(~np.isin(tokens, self.inner)))
        return np.maximum(outside[np.searchsorted(outside, stops) - 1], stops - self.longest) + 1, stops


@dataclass(frozen=True)
class HistoryDropout:
    """Drops each item of a history with a probability, so that the model does not rely on any single one.

    The last item of an example always stays: it is the answer, or the item that the answer is about. Of three or more
    items at least two stay.
    """

    prob: float
    spans: CodeSpans
    seed: int
    stage: int

    def __call__(self, example: Encoded, number: int, epoch: int) -> Encoded:
        begins, stops = self.spans.find(example.tokens)
        if len(stops) < 3:
            return example
        dropped = stream(self.seed, "drop", self.stage, epoch, number).random(len(stops)) < self.prob
        dropped[-1] = False
        dropped[-2] &= not dropped[:-2].all()
        mask = np.ones(len(example.tokens), bool)
        for begin, stop in zip(begins[dropped].tolist(), stops[dropped].tolist(), strict=True):
            mask[begin : stop + 1] = False
        return Encoded(example.tokens[mask], example.supervised[mask])


@dataclass(frozen=True)
class Candidates:
    """Items of examples that may be replaced, and the teacher's most probable items for each.

    Attributes:
        offsets: (examples + 1,) int64, example e has the rows offsets[e] to offsets[e + 1].
        begins, stops: (rows,) int32, positions of the first and last token of the item in its example.
        items: (rows, k) int32.
        probs: (rows, k) float32, cumulative; all 0 where the teacher predicts nothing.
    """

    offsets: np.ndarray
    begins: np.ndarray
    stops: np.ndarray
    items: np.ndarray
    probs: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Candidates:
        """Open a folder that `write` made, memory-mapped."""
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)))

    def write(self, folder: Path) -> None:
        """Write into a folder."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))


@dataclass(frozen=True)
class TeacherReplacement:
    """Replaces each item of a history, with a probability, by one that a collaborative model predicts there.

    The label is one item; the teacher gives a distribution over items. A replaced item is a target and then part of the
    history: soft targets without more tokens. The teacher is fitted on the training part and predicts from the items
    before. The first item of a history is never replaced.

    Attributes:
        codes: (items, longest) int64 model tokens of every item's code, padded at the end by -1.

    Source: Liu et al. 2021, arXiv 2108.06479, where substitutes are similar items; here a teacher's predictions.
    """

    prob: float
    candidates: Candidates
    codes: np.ndarray
    seed: int
    stage: int

    def __call__(self, example: Encoded, number: int, epoch: int) -> Encoded:
        candidates = self.candidates
        rows = slice(*candidates.offsets[number : number + 2].tolist())
        random = stream(self.seed, "taught", self.stage, epoch, number).random((2, rows.stop - rows.start))
        probs = candidates.probs[rows]
        replaced = np.flatnonzero((random[0] < self.prob) & (probs[:, -1] > 0))
        if not len(replaced):
            return example
        drawn = (probs[replaced] < random[1, replaced, None]).sum(1).clip(max=probs.shape[1] - 1)
        tokens = example.tokens.copy()
        spans = zip(candidates.begins[rows][replaced], candidates.stops[rows][replaced] + 1, strict=True)
        for (begin, stop), item in zip(spans, candidates.items[rows][replaced, drawn], strict=True):
            code = self.codes[item][self.codes[item] >= 0]
            if len(code) == stop - begin:  # an example keeps its length
                tokens[begin:stop] = code
        return Encoded(tokens, example.supervised)


def find_candidates(
    examples: Iterable[Encoded],
    spans: CodeSpans,
    codes: np.ndarray,
    teacher: CollaborativeModel,
    repeat: bool,
    name: str,
) -> Candidates:
    """Find the items that may be replaced, and the teacher's predictions for them.

    These are supervised items with supervised items alone before them: histories and the answers that follow them, not
    the candidates that a prompt offers, and not answers to words.

    Args:
        codes: (items, longest) int64 model tokens of every item's code, padded at the end by -1.
        teacher: fitted on the training part.
        repeat: whether an item of a history may come again.
        name: of the setting in the recipe, for messages.

    Raises:
        ModelError: there is no such item.
    """
    item_of = {tuple(code[code >= 0].tolist()): item for item, code in enumerate(codes)}
    counts, bounds, histories = [0], [], []
    for example in examples:
        history, count = list[int](), 0
        for begin, stop in zip(*spans.find(example.tokens), strict=True):
            if not example.supervised[begin : stop + 1].all():
                break
            if history:
                count += 1
                bounds.append((begin, stop))
                histories.append(np.array(history, np.int32))
            item = item_of.get(tuple(example.tokens[begin : stop + 1].tolist()))  # None with a reserved token
            history += [] if item is None else [item]
        counts.append(count)
    if not bounds:
        raise ModelError(
            f"{name}: no example holds a supervised history, in which items could be replaced. Give tasks.next_item a "
            f"weight with tasks.loss_on: all-items, or set {name} to 0."
        )
    blocks = []
    for start in range(0, len(histories), _BLOCK):
        items, probs = topk_probabilities(teacher, Sequences.of(histories[start : start + _BLOCK]), repeat)
        blocks.append((items, np.cumsum(probs, axis=1).astype(np.float32)))
    begins, stops = np.array(bounds, np.int32).T
    return Candidates(np.cumsum(counts), begins, stops, *map(np.concatenate, zip(*blocks, strict=True)))


@dataclass(frozen=True)
class ReservedTokens:
    """Trains reserved tokens: an item's last token is replaced by a reserved one with a probability.

    A new item has the prefix of known items and then a last token that none of them has. A model that has never seen
    that token there gives every new item no probability. The replacement is, half the time, the token that the next new
    item of the prefix would get (`indexing.build.extend`), and otherwise one that no item has; it is the same for all
    occurrences of an item in an example.

    Attributes:
        free: (m,) int64 model tokens that no item has, m > 0.
        following: prefix of model tokens → the token that its next new item gets, where there is one left.
    """

    spans: CodeSpans
    free: np.ndarray
    following: dict[tuple[int, ...], int]
    prob: float
    seed: int
    stage: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, prob: float, seed: int, stage: int) -> ReservedTokens | None:
        """For a catalogue whose symbols are the model tokens `new`; None without reserved tokens, or if prob is 0."""
        last = np.arange(catalogue.first_of_last, len(catalogue.tokens))
        free = np.setdiff1d(last, catalogue.prefixes[1])
        if not len(free) or not prob or catalogue.suffix not in ("dedup", "per-item"):
            return None
        highest: dict[tuple[int, ...], int] = {}
        for row in catalogue.codes.tolist() if catalogue.suffix == "dedup" else []:
            *inner, symbol = (symbol for symbol in row if symbol >= 0)
            prefix = tuple(new[inner].tolist())
            highest[prefix] = max(highest.get(prefix, -1), symbol)
        following = {prefix: int(new[symbol + 1]) for prefix, symbol in highest.items() if symbol < last[-1]}
        return cls(CodeSpans.of(catalogue, new), new[free], following, prob, seed, stage)

    def __call__(self, tokens: np.ndarray, number: int) -> np.ndarray:
        """(length,) int64 tokens of an example, some of them replaced."""
        begins, stops = self.spans.find(tokens)
        if not len(stops):
            return tokens
        random = stream(self.seed, "spares", self.stage, number)
        codes = [tuple(tokens[begin : stop + 1]) for begin, stop in zip(begins, stops, strict=True)]
        chosen = {code: self._token(code, random) for code in dict.fromkeys(codes) if random.random() < self.prob}
        changed = tokens.copy()
        changed[stops] = [chosen.get(code, code[-1]) for code in codes]
        return changed

    def _token(self, code: tuple[int, ...], random: np.random.Generator) -> int:
        free, after = int(random.choice(self.free)), random.random() < 0.5
        return self.following.get(code[:-1], free) if after else free
