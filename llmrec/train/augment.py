"""Augmentation of examples: items left out, items replaced by a teacher's, items with a reserved token.

Each depends on the run's seed, the training stage, the example's number and (but for reserved tokens) the epoch alone,
so a training that is resumed sees the same examples.
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

_BLOCK = 1024  # histories that a teacher scores at once, each a row over the catalogue


@dataclass(frozen=True)
class CodeSpans:
    """Finds the codes of items in an example by the levels of their tokens, so also a code with a reserved token.

    Attributes:
        ends: (n,) int64 model tokens that end a code.
        inner: (m,) int64 model tokens of codes that do not.
        longest: tokens of the longest code.
    """

    ends: np.ndarray
    inner: np.ndarray
    longest: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray) -> CodeSpans:
        """Of a catalogue, whose tokens are the model's `new`."""
        first, count = catalogue.first_of_last, len(catalogue.tokens)
        return cls(new[first:count], new[:first], catalogue.codes.shape[1])

    def find(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes,) int64 where each code begins, and (codes,) int64 where its last token stands."""
        stops = np.flatnonzero(np.isin(tokens, self.ends))
        outside = np.append(-1, np.flatnonzero(~np.isin(tokens, self.inner)))
        return np.maximum(outside[np.searchsorted(outside, stops) - 1], stops - self.longest) + 1, stops


@dataclass(frozen=True)
class HistoryDropout:
    """Leaves out items of a history by chance, so that the model does not rely on any single one.

    The last item of an example always stays: it is the answer, or what an answer in words is about.

    Attributes:
        share: probability of each item to be left out.
        spans: finds items in an example.
        seed: of the run.
        part: number of the training stage.
    """

    share: float
    spans: CodeSpans
    seed: int
    part: int

    def __call__(self, example: Encoded, number: int, epoch: int) -> Encoded:
        """The example as an epoch has it; at least two of three items or more are kept."""
        begins, stops = self.spans.find(example.tokens)
        if len(stops) < 3:
            return example
        gone = stream(self.seed, "drop", self.part, epoch, number).random(len(stops)) < self.share
        gone[-1] = False
        gone[-2] &= not gone[:-2].all()
        kept = np.ones(len(example.tokens), bool)
        for begin, stop in zip(begins[gone].tolist(), stops[gone].tolist(), strict=True):
            kept[begin : stop + 1] = False
        return Encoded(example.tokens[kept], example.supervised[kept])


@dataclass(frozen=True)
class Candidates:
    """The items of examples that may be replaced, and what a teacher expects in their place.

    Attributes:
        offsets: (examples + 1,) int64, example e has the places offsets[e] to offsets[e + 1].
        begins, stops: (places,) int32, where the item's code begins in its example, and where its last token stands.
        items: (places, likely) int32.
        chances: (places, likely) float32, cumulated to 1; all 0 where the teacher expects nothing.
    """

    offsets: np.ndarray
    begins: np.ndarray
    stops: np.ndarray
    items: np.ndarray
    chances: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Candidates:
        """What `write` wrote, memory-mapped."""
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)))

    def write(self, folder: Path) -> None:
        """Into a folder."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))


@dataclass(frozen=True)
class TeacherReplacement:
    """Replaces items of histories by chance by items that a teacher expects there, others in every epoch.

    A label says which one item came next; a teacher says which dozens could have. The model learns the whole code of
    the item drawn, and then goes on from it: soft targets at no cost in tokens. The teacher sees the training part
    alone, and of a history what stands before the item.

    Attributes:
        share: probability of each item, but the first of a history, to be replaced.
        candidates: what may come instead.
        codes: (items, longest) int64 model tokens of every item's code, padded at the end by -1.
        seed: of the run.
        part: number of the training stage.

    Source: Liu et al. 2021, arXiv 2108.06479, which takes items near the one replaced; here what a teacher expects.
    """

    share: float
    candidates: Candidates
    codes: np.ndarray
    seed: int
    part: int

    def __call__(self, example: Encoded, number: int, epoch: int) -> Encoded:
        """The example as an epoch has it; a replacement has a code as long, so the example keeps its length."""
        held = self.candidates
        own = slice(*held.offsets[number : number + 2].tolist())
        random = stream(self.seed, "taught", self.part, epoch, number).random((2, own.stop - own.start))
        chances = held.chances[own]
        replaced = np.flatnonzero((random[0] < self.share) & (chances[:, -1] > 0))
        if not len(replaced):
            return example
        drawn = (chances[replaced] < random[1, replaced, None]).sum(1).clip(max=chances.shape[1] - 1)
        tokens = example.tokens.copy()
        spans = zip(held.begins[own][replaced], held.stops[own][replaced] + 1, strict=True)
        for (begin, stop), item in zip(spans, held.items[own][replaced, drawn], strict=True):
            code = self.codes[item][self.codes[item] >= 0]
            if len(code) == stop - begin:
                tokens[begin:stop] = code
        return Encoded(tokens, example.supervised)


def find_candidates(
    examples: Iterable[Encoded],
    spans: CodeSpans,
    codes: np.ndarray,
    teacher: CollaborativeModel,
    again: bool,
    name: str,
) -> Candidates:
    """Every item that may be replaced: supervised, behind other supervised items and none that is not.

    So these are the items of histories, and the answers that close them; not those on offer in a prompt, nor answers
    to words.

    Args:
        examples: as they were encoded.
        spans: finds codes.
        codes: (items, longest) int64 model tokens of every item's code, padded at the end by -1.
        teacher: fitted on the training part.
        again: whether what is in a history may come again.
        name: of the setting in the recipe, for messages.

    Raises:
        ModelError: there is no such item.
    """
    item_of = {tuple(code[code >= 0].tolist()): item for item, code in enumerate(codes)}
    counts, bounds, histories = [0], [], []
    for example in examples:
        before, count = list[int](), 0
        for begin, stop in zip(*spans.find(example.tokens), strict=True):
            if not example.supervised[begin : stop + 1].all():
                break
            if before:
                count += 1
                bounds.append((begin, stop))
                histories.append(np.array(before, np.int32))
            item = item_of.get(tuple(example.tokens[begin : stop + 1].tolist()))  # None with a reserved token
            before += [] if item is None else [item]
        counts.append(count)
    if not bounds:
        raise ModelError(
            f"{name}: no example holds a supervised history, in which a teacher could help. Give tasks.next_item a "
            f"weight with tasks.loss_on: all-items, or set {name} to 0."
        )
    blocks = []
    for start in range(0, len(histories), _BLOCK):
        items, chances = topk_probabilities(teacher, Sequences.of(histories[start : start + _BLOCK]), again)
        blocks.append((items, np.cumsum(chances, axis=1).astype(np.float32)))
    begins, stops = np.array(bounds, np.int32).T
    return Candidates(np.cumsum(counts), begins, stops, *map(np.concatenate, zip(*blocks, strict=True)))


@dataclass(frozen=True)
class ReservedTokens:
    """Gives a few items of an example a reserved token in place of the last one of their code.

    A new item shares its prefix with known ones and gets a token of the separating level that none of them has. A model
    that never saw that token there would give every new item no probability. So some items are trained under their own
    prefix and such a token, in the prompt and in the answer alike: half the time the token that the next new item of
    the prefix would get (`indexing.build.extend`), half the time one that no item has anywhere.

    Attributes:
        spans: finds codes; those that end with a token of the separating level, reserved ones included.
        free: (m,) int64 model tokens that no item has, m > 0.
        following: prefix of model tokens → the token that its next new item gets, where there is one left.
        share: probability of each item of an example.
        seed: of the run.
        part: number of the training stage.
    """

    spans: CodeSpans
    free: np.ndarray
    following: dict[tuple[int, ...], int]
    share: float
    seed: int
    part: int

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, share: float, seed: int, part: int) -> ReservedTokens | None:
        """Of a catalogue whose tokens are the model's `new`; None where it has no reserved tokens, or share is 0."""
        last = np.arange(catalogue.first_of_last, len(catalogue.tokens))
        free = np.setdiff1d(last, catalogue.prefixes[1])
        if not len(free) or not share or catalogue.suffix not in ("dedup", "per-item"):
            return None
        highest: dict[tuple[int, ...], int] = {}
        for row in catalogue.codes.tolist() if catalogue.suffix == "dedup" else []:
            *inner, symbol = (symbol for symbol in row if symbol >= 0)
            prefix = tuple(new[inner].tolist())
            highest[prefix] = max(highest.get(prefix, -1), symbol)
        following = {prefix: int(new[symbol + 1]) for prefix, symbol in highest.items() if symbol < last[-1]}
        return cls(CodeSpans.of(catalogue, new), new[free], following, share, seed, part)

    def __call__(self, tokens: np.ndarray, number: int) -> np.ndarray:
        """(length,) int64 tokens of an example, an item with the same reserved token wherever it stands."""
        begins, stops = self.spans.find(tokens)
        if not len(stops):
            return tokens
        random = stream(self.seed, "spares", self.part, number)
        codes = [tuple(tokens[begin : stop + 1]) for begin, stop in zip(begins, stops, strict=True)]
        chosen = {code: self._token(code, random) for code in dict.fromkeys(codes) if random.random() < self.share}
        changed = tokens.copy()
        changed[stops] = [chosen.get(code, code[-1]) for code in codes]
        return changed

    def _token(self, code: tuple[int, ...], random: np.random.Generator) -> int:
        free, after = int(random.choice(self.free)), random.random() < 0.5
        return self.following.get(code[:-1], free) if after else free
