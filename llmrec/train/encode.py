"""Examples to tokens, with the positions that are supervised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.model.prompting import wrap_all
from llmrec.tasks.builder import SCHEMA
from llmrec.tasks.tokens import SegmentTokenizer, fit_history
from llmrec.train.spares import Spares

ROWS = 4096  # examples that are encoded at once


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        tokens: (length,) integers.
        supervised: (length,) bool, the tokens that the model must predict.
    """

    tokens: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class Block:
    """Some examples as tokens, one behind another.

    Attributes:
        tokens: (tokens,) int64.
        supervised: (tokens,) bool, the tokens that the model must predict.
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
        """From single examples, at least one."""
        offsets = np.cumsum([0, *(len(example.tokens) for example in examples)])
        tokens, supervised = zip(*((example.tokens, example.supervised) for example in examples), strict=True)
        return cls(np.concatenate(tokens), np.concatenate(supervised), offsets)


def encode_examples(
    examples: pa.Table, tokenizer: PreTrainedTokenizerBase, window: int, spares: Spares | None = None
) -> list[Encoded]:
    """As `encode`, all examples of a table at once: for those that memory holds."""
    batches = examples.to_batches(max_chunksize=ROWS)
    return [example for block in encode(batches, tokenizer, window, spares) for example in block]


def encode(
    batches: Iterable[pa.RecordBatch], tokenizer: PreTrainedTokenizerBase, window: int, spares: Spares | None = None
) -> Iterator[Block]:
    """Tokenize prompt and answer together; answers always count, history items where the example says so.

    Args:
        batches: examples as `tasks.examples.stream_batches` gives them.
        tokenizer: with the item tokens, and character offsets.
        window: tokens that the model can hold; a longer example loses the oldest items of its history.
        spares: lends spare tokens to a share of the items; None for no loans.

    Raises:
        ModelError: an example is longer than the window even with one item of its history.
    """
    tokenize, count = SegmentTokenizer(tokenizer, special=not tokenizer.chat_template), 0
    for batch in batches:
        block = _block(batch, tokenize, window)
        for number, example in enumerate(block if spares else (), count):
            example.tokens[:] = spares.lend(example.tokens, number) if spares else example.tokens
        count += len(block)
        yield block


def longest(batches: Iterable[pa.RecordBatch], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest example, none of it cut off."""
    return max(int(np.diff(block.offsets).max()) for block in encode(batches, tokenizer, 1 << 20) if len(block))


def _block(batch: pa.RecordBatch, tokenize: SegmentTokenizer, window: int) -> Block:
    texts, shift = wrap_all(tokenize.tokenizer, batch["prompt"])
    whole = pc.binary_join_element_wise(texts, batch["answer"], tokenize.tokenizer.eos_token or "", "")
    found = tokenize(whole)
    lengths = np.diff(found.offsets)
    row = np.repeat(np.arange(len(lengths)), lengths)
    asked = pc.utf8_length(texts).to_numpy().astype(np.int64)[row]
    supervised = found.begins >= asked  # the answer and its end
    if pc.any(pc.equal(batch["loss_on"], "all-items")).as_py():
        sizes = pc.utf8_length(whole).to_numpy().astype(np.int64) + 1
        before = np.cumsum(sizes) - sizes  # characters of earlier texts
        supervised |= _in_history(batch, before + shift, int(sizes.sum()))[before[row] + found.begins]
    supervised &= found.ends > found.begins  # markers that a tokenizer adds have no characters
    block = Block(found.ids, supervised, found.offsets)
    if (lengths <= window).all():
        return block
    too_long, kept = lengths > window, list(block)
    for number in np.flatnonzero(too_long).tolist():
        kept[number] = _shortened(batch.slice(number, 1).to_pylist()[0], tokenize, window)
    return Block.of(kept)


def _in_history(batch: pa.RecordBatch, starts: np.ndarray, characters: int) -> np.ndarray:
    """(characters,) bool, which characters of all texts are of history items that are supervised.

    Args:
        batch: the examples.
        starts: (examples,) the character at which the prompt of each starts.
        characters: of all texts.
    """
    slots, row = batch["slots"].flatten(), np.repeat(starts, pc.list_value_length(batch["slots"]).to_numpy())
    asked = pc.equal(batch["loss_on"], "all-items").to_numpy(zero_copy_only=False)
    mine = pc.equal(pc.struct_field(slots, "kind"), "history").to_numpy(zero_copy_only=False)
    mine &= np.repeat(asked, pc.list_value_length(batch["slots"]).to_numpy())
    bounds = np.zeros(characters + 1, np.int8)
    for name, step in (("start", 1), ("stop", -1)):
        bounds[row[mine] + pc.struct_field(slots, name).to_numpy()[mine]] += step  # no two pieces share a bound
    return np.cumsum(bounds, dtype=np.int8) > 0


def _shortened(row: dict[str, Any], tokenize: SegmentTokenizer, window: int) -> Encoded:
    """An example with as much of its history as fits."""

    def encoded(kept: dict[str, Any]) -> Encoded:
        return next(iter(_block(pa.RecordBatch.from_pylist([kept], schema=SCHEMA), tokenize, 1 << 30)))

    kept = fit_history(row, window, lambda prompt: len(encoded(row | {"prompt": prompt, "slots": []}).tokens))
    example = encoded(kept)
    if len(example.tokens) > window:
        raise ModelError(
            f"an example of '{row['task']}' has {len(example.tokens)} tokens but the model holds {window}. "
            f"Lower tasks.history (or shorten items.text)."
        )
    return example


def used(examples: Iterable[Encoded], new: np.ndarray) -> dict[str, np.ndarray]:
    """Which new tokens examples give a gradient to.

    Args:
        examples: those that training saw.
        new: (tokens,) ids of the new tokens.

    Returns:
        `input` → (tokens,) bool, those before a supervised token of their example; `output` → supervised ones.
    """
    seen = {side: np.zeros(int(new.max()) + 1, bool) for side in ("input", "output")}
    for example in examples:
        places = np.flatnonzero(example.supervised[1:]) + 1
        parts = {"input": example.tokens[: places.max(initial=0)], "output": example.tokens[places]}
        for side, tokens in parts.items():
            seen[side][tokens[tokens < len(seen[side])]] = True
    return {side: found[new] for side, found in seen.items()}
