"""Tokenized examples with their supervised positions, in memory or in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.model.prompting import format_prompts
from llmrec.tasks.builder import SCHEMA
from llmrec.tasks.tokens import SegmentTokenizer, fit_history

ROWS = 4096  # examples per block
_TOKENS, _SIZES = "tokens.bin", "sizes.npy"
_WIDTH = 4  # bytes of a token in a file; a supervised one is stored as its bitwise complement, below zero
Substitute = Callable[[np.ndarray, int], np.ndarray]
"""((length,) tokens of an example, its number) → the tokens with some replaced."""


@dataclass(frozen=True)
class Encoded:
    """One example: (length,) int64 token ids, and (length,) bool, the tokens to predict."""

    tokens: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class Block:
    """Several examples in flat arrays.

    Attributes:
        tokens: (tokens,) int64.
        supervised: (tokens,) bool, the tokens to predict.
        offsets: (examples + 1,) int64, example e has the tokens offsets[e] to offsets[e + 1].
    """

    tokens: np.ndarray
    supervised: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Encoded]:
        for start, stop in pairwise(self.offsets.tolist()):
            yield Encoded(self.tokens[start:stop], self.supervised[start:stop])

    @classmethod
    def of(cls, examples: Sequence[Encoded]) -> Block:
        """Join one or more examples."""
        offsets = np.cumsum([0, *(len(example.tokens) for example in examples)])
        tokens, supervised = zip(*((example.tokens, example.supervised) for example in examples), strict=True)
        return cls(np.concatenate(tokens), np.concatenate(supervised), offsets)

    @property
    def predicted(self) -> np.ndarray:
        """(examples,) number of tokens to predict, never the first one of an example."""
        counted = self.supervised.copy()
        counted[self.offsets[:-1]] = False
        return np.diff(np.concatenate([[0], np.cumsum(counted)])[self.offsets])


class TokenFile(Sequence[Encoded]):
    """Examples in a file, each read when it is used, so memory does not grow with their number.

    Attributes:
        lengths: (examples,) tokens of each.
        predicted: (examples,) number of tokens of each to predict.
    """

    def __init__(self, folder: Path) -> None:
        self.lengths, self.predicted = np.load(folder / _SIZES)
        self._ends = np.cumsum(self.lengths, dtype=np.int64)
        self._file = (folder / _TOKENS).open("rb", buffering=0)

    @staticmethod
    def write(blocks: Iterable[Block], folder: Path) -> None:
        """Write examples into a folder."""
        sizes = [np.zeros((2, 0), np.int32)]
        with (folder / _TOKENS).open("wb") as file:
            for block in blocks:
                np.where(block.supervised, ~block.tokens, block.tokens).astype(np.int32).tofile(file)
                sizes.append(np.stack([np.diff(block.offsets), block.predicted]).astype(np.int32))
        np.save(folder / _SIZES, np.concatenate(sizes, axis=1))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Encoded:  # type: ignore[override]  # no slices
        size, end = int(self.lengths[number]), int(self._ends[number])
        read = os.pread(self._file.fileno(), size * _WIDTH, (end - size) * _WIDTH)
        stored = np.frombuffer(read, np.int32).astype(np.int64)
        return Encoded(np.where(stored < 0, ~stored, stored), stored < 0)


def encode_examples(
    examples: pa.Table, tokenizer: PreTrainedTokenizerBase, window: int, substitute: Substitute | None = None
) -> list[Encoded]:
    """`encode` for a table that fits in memory."""
    batches = examples.to_batches(max_chunksize=ROWS)
    return [example for block in encode(batches, tokenizer, window, substitute) for example in block]


def encode(
    batches: Iterable[pa.RecordBatch],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    substitute: Substitute | None = None,
) -> Iterator[Block]:
    """Tokenize prompt and answer together; answers are supervised, and history items where the example says so.

    Args:
        batches: examples, as from `tasks.examples.stream_batches`.
        tokenizer: with the item tokens, and character offsets.
        window: maximal tokens of an example; a longer one loses the oldest items of its history.
        substitute: replaces tokens of each example.

    Raises:
        ModelError: an example is too long even with one item of its history.
    """
    tokenize, count = SegmentTokenizer(tokenizer, special=not tokenizer.chat_template), 0
    for batch in batches:
        block = _block(batch, tokenize, window)
        if substitute:
            for number, example in enumerate(block, count):
                example.tokens[:] = substitute(example.tokens, number)
        count += len(block)
        yield block


def longest(batches: Iterable[pa.RecordBatch], tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the longest example."""
    return max(int(np.diff(block.offsets).max()) for block in encode(batches, tokenizer, 1 << 20) if len(block))


def _block(batch: pa.RecordBatch, tokenize: SegmentTokenizer, window: int) -> Block:
    prompts, shift = format_prompts(tokenize.tokenizer, batch["prompt"])
    texts = pc.binary_join_element_wise(prompts, batch["answer"], tokenize.tokenizer.eos_token or "", "")
    result = tokenize(texts)
    lengths = np.diff(result.offsets)
    row = np.repeat(np.arange(len(lengths)), lengths)
    supervised = result.begins >= pc.utf8_length(prompts).to_numpy().astype(np.int64)[row]  # the answer and its end
    if pc.any(pc.equal(batch["loss_on"], "all-items")).as_py():
        sizes = pc.utf8_length(texts).to_numpy().astype(np.int64) + 1
        before = np.cumsum(sizes) - sizes  # characters of earlier texts
        supervised |= _in_history(batch, before + shift, int(sizes.sum()))[before[row] + result.begins]
    supervised &= result.ends > result.begins  # markers that a tokenizer adds have no characters
    block = Block(result.ids, supervised, result.offsets)
    if (lengths <= window).all():
        return block
    examples = list(block)
    for number in np.flatnonzero(lengths > window).tolist():
        examples[number] = _shortened(batch.slice(number, 1).to_pylist()[0], tokenize, window)
    return Block.of(examples)


def _in_history(batch: pa.RecordBatch, starts: np.ndarray, characters: int) -> np.ndarray:
    """(characters,) bool, the characters of supervised history items in the concatenated texts.

    Args:
        starts: (examples,) the character at which the prompt of each starts.
        characters: of all texts.
    """
    slots, counts = batch["slots"].flatten(), pc.list_value_length(batch["slots"]).to_numpy()
    chosen = pc.equal(pc.struct_field(slots, "kind"), "history").to_numpy(zero_copy_only=False)
    chosen &= np.repeat(pc.equal(batch["loss_on"], "all-items").to_numpy(zero_copy_only=False), counts)
    start = np.repeat(starts, counts)[chosen]
    bounds = np.zeros(characters + 1, np.int8)
    for name, step in (("start", 1), ("stop", -1)):
        bounds[start + pc.struct_field(slots, name).to_numpy()[chosen]] += step  # no two slots share a bound
    return np.cumsum(bounds, dtype=np.int8) > 0


def _shortened(row: dict[str, Any], tokenize: SegmentTokenizer, window: int) -> Encoded:
    """The example with as many of its history items as fit."""

    def encoded(row: dict[str, Any]) -> Encoded:
        return next(iter(_block(pa.RecordBatch.from_pylist([row], schema=SCHEMA), tokenize, 1 << 30)))

    example = encoded(fit_history(row, window, lambda text: len(encoded(row | {"prompt": text, "slots": []}).tokens)))
    if len(example.tokens) > window:
        raise ModelError(
            f"an example of '{row['task']}' has {len(example.tokens)} tokens but the model holds {window}. "
            f"Lower tasks.history (or shorten items.text)."
        )
    return example


def used(examples: Iterable[Encoded], new: np.ndarray) -> dict[str, np.ndarray]:
    """Find which new tokens get a gradient from some examples.

    Args:
        new: (tokens,) ids of the new tokens.

    Returns:
        `input` → (tokens,) bool, those before a supervised token; `output` → (tokens,) bool, supervised ones.
    """
    seen = {side: np.zeros(int(new.max()) + 1, bool) for side in ("input", "output")}
    for example in examples:
        targets = np.flatnonzero(example.supervised[1:]) + 1
        for side, tokens in (("input", example.tokens[: targets.max(initial=0)]), ("output", example.tokens[targets])):
            seen[side][tokens[tokens < len(seen[side])]] = True
    return {side: mask[new] for side, mask in seen.items()}
