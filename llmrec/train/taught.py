"""A teacher's help: items of histories give way by chance to items that a teacher expects there, others in every epoch.

A label says which one item came next; a teacher says which dozens could have. Where an item gives way, the model learns
the whole code of one of those, and then goes on from it: soft targets by drawing, at no cost in tokens. Substitution
by correlated items is an augmentation of sequential recommenders, too (Liu et al. 2021, arXiv 2108.06479); there a
substitute is near the item it stands for, here it is what a teacher expects after the items before it.

The teacher sees the training part alone, and the history before an item alone. It was fitted on that history, too, so
what it expects there is at times the item that stands there: then nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrec.collaborative import topk_probabilities
from llmrec.contracts import CollaborativeModel, Sequences
from llmrec.errors import ModelError
from llmrec.seed import stream
from llmrec.train.coded import Coded
from llmrec.train.encode import Encoded

_BLOCK = 1024  # histories that teachers score at once, each a row over the catalogue


@dataclass(frozen=True)
class Places:
    """The items of examples that may give way, and what a teacher expects there.

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
    def load(cls, folder: Path) -> Places:
        """What `write` wrote, left on disk."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__annotations__))

    def write(self, folder: Path) -> None:
        """Into a folder."""
        for name in type(self).__annotations__:
            np.save(folder / f"{name}.npy", getattr(self, name))


@dataclass(frozen=True)
class Taught:
    """Puts other items in the place of some; the same for an example and an epoch, whoever asks, and when.

    Attributes:
        share: probability of each item, but the first of a history, to give way.
        places: what may come instead.
        codes: (items, longest) int64 model tokens of every item's code, padded at the end by -1.
        seed: of the run.
        part: number of the training stage.
    """

    share: float
    places: Places
    codes: np.ndarray
    seed: int
    part: int

    def __call__(self, example: Encoded, number: int, epoch: int) -> Encoded:
        """An example with some items exchanged for ones with a code as long, so that it keeps its length.

        Args:
            example: as it was encoded.
            number: of the example among all.
            epoch: from 0.
        """
        mine = slice(*self.places.offsets[number : number + 2].tolist())
        draw = stream(self.seed, "taught", self.part, epoch, number).random((2, mine.stop - mine.start))
        chances = self.places.chances[mine]
        giving = np.flatnonzero((draw[0] < self.share) & (chances[:, -1] > 0))
        if not len(giving):
            return example
        likely = (chances[giving] < draw[1, giving, None]).sum(1).clip(max=chances.shape[1] - 1)
        tokens, places = example.tokens.copy(), self.places
        spans = zip(places.begins[mine][giving], places.stops[mine][giving] + 1, strict=True)
        for (begin, stop), item in zip(spans, places.items[mine][giving, likely], strict=True):
            code = self.codes[item][self.codes[item] >= 0]
            if len(code) == stop - begin:
                tokens[begin:stop] = code
        return Encoded(tokens, example.supervised)


def find(
    examples: Iterable[Encoded],
    coded: Coded,
    codes: np.ndarray,
    teacher: CollaborativeModel,
    again: bool,
    name: str,
) -> Places:
    """Every item that may give way: supervised, behind other supervised items and none that is not.

    So these are the items of histories, and the answers that close them; not those on offer in a prompt, nor answers
    to words.

    Args:
        examples: as they were encoded.
        coded: finds codes.
        codes: (items, longest) int64 model tokens of every item's code, padded at the end by -1.
        teacher: fitted on the training part.
        again: whether what is in a history may come again.
        name: of the setting in the recipe, for messages.

    Raises:
        ModelError: there is no such item.
    """
    number = {tuple(code[code >= 0].tolist()): item for item, code in enumerate(codes)}
    counts, spans, histories = [0], [], []
    for example in examples:
        before, count = list[int](), 0
        for begin, stop in zip(*coded.spans(example.tokens), strict=True):
            if not example.supervised[begin : stop + 1].all():
                break
            if before:
                count += 1
                spans.append((begin, stop))
                histories.append(np.array(before, np.int32))
            item = number.get(tuple(example.tokens[begin : stop + 1].tolist()))  # none for one with a spare token
            before += [] if item is None else [item]
        counts.append(count)
    if not spans:
        raise ModelError(
            f"{name}: no example holds a supervised history, in which a teacher could help. Give tasks.next_item a "
            f"weight with tasks.loss_on: all-items, or set {name} to 0."
        )
    found = list(zip(*_expected(histories, teacher, again), strict=True))
    items, chances = (np.concatenate(column) for column in found)
    begins, stops = np.array(spans, np.int32).T
    return Places(np.cumsum(counts), begins, stops, items, chances)


def _expected(
    histories: Sequence[np.ndarray], teacher: CollaborativeModel, again: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(histories, likely) items, and their cumulated chances, of some histories at a time."""
    for start in range(0, len(histories), _BLOCK):
        items, chances = topk_probabilities(teacher, Sequences.of(histories[start : start + _BLOCK]), again)
        yield items, np.cumsum(chances, axis=1).astype(np.float32)
