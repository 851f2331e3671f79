"""Tokenize many prompts that share words, each distinct word and code once; shorten prompts that are too long.

A tokenizer splits a text at its added tokens before anything else, so the text between two codes always has the same
tokens. If no token of the vocabulary spans from one word across a space into the next, words have the same tokens too,
since no merge could join them. Both are checked: the first on texts of every call, the second on the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from llmrec.tasks.instances import concat_ranges
from llmrec.tasks.segments import AFTER_CODE, CODE, CONTEXTS, TEXT_START, WHOLE, Segments, split_segments

_CODE = re.compile(r"<[^<>\s]{1,40}>")
# A space, as vocabularies write it, after something that is not a space, line break or tab.
_SPANS_WORDS = re.compile("[^\\s\u0120\u2581\u0109-\u010d][ \u0120\u2581]")
_CHECKED = 16  # texts of every call that are also tokenized whole, as a check
_CACHED = 1 << 22  # tokens of cached segments, at most
_BATCH = 256  # new segments that are tokenized as one text
_HISTORY = ("history", "title")

ExampleRow = dict[str, Any]  # prompt and slots of an example, as from `Table.to_pylist`


@dataclass(frozen=True)
class TokenizedTexts:
    """Tokens of a batch of texts, concatenated.

    Attributes:
        ids: (tokens,) int64.
        begins, ends: (tokens,) int64, characters of its text at which each token begins and ends.
        offsets: (texts + 1,) int64, text t has the tokens offsets[t] to offsets[t + 1].
    """

    ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray

    def text(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, begins and ends of one text."""
        part = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[part], self.begins[part], self.ends[part]


class SegmentTokenizer:
    """Tokenizes texts with item codes from cached segments, with the same result as the tokenizer.

    Attributes:
        tokenizer: with the item tokens.
        special: whether it adds its own tokens around a text (`add_special_tokens`).
        by_segment: whether segments are used; False once they gave other tokens than the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: bool) -> None:
        self.tokenizer, self.special = tokenizer, special
        self._codes = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if _CODE.fullmatch(token.content) and not _changes_neighbours(token)
        }
        self.by_segment = bool(self._codes)
        added = set(tokenizer.get_added_vocab())
        self._by_word = not any(_SPANS_WORDS.search(token) for token in tokenizer.get_vocab() if token not in added)
        self._clear()

    def __call__(self, texts: pa.Array) -> TokenizedTexts:
        """Tokenize (texts,) strings, none of them null."""
        if not self.by_segment or not len(texts):
            return self._whole(texts.to_pylist(), self.special)
        result = self._from_segments(texts)
        checked = list(range(0, len(texts), -(-len(texts) // _CHECKED)))
        expected = self._whole(texts.take(pa.array(checked)).to_pylist(), self.special)
        for index, number in enumerate(checked):
            if not all(np.array_equal(*pair) for pair in zip(result.text(number), expected.text(index), strict=True)):
                self.by_segment = False  # this tokenizer looks beyond its added tokens
                return self._whole(texts.to_pylist(), self.special)
        return result

    def _clear(self) -> None:
        self._known: dict[str, dict[str, int]] = {context: {} for context in CONTEXTS}  # context → segment → its number
        self._ends = np.zeros(1, np.int64)  # number → end of its tokens in the pool, where those of the next begin
        self._pool = np.zeros((3, 1 << 12), np.int64)  # ids, begins and ends; grows by doubling

    def _whole(self, texts: list[str], special: bool) -> TokenizedTexts:
        if not texts:
            none = np.zeros(0, np.int64)
            return TokenizedTexts(none, none, none, np.zeros(1, np.int64))
        encoded = self.tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
        counts = np.fromiter(map(len, encoded["input_ids"]), np.int64, len(texts))
        ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), np.int64, counts.sum())
        characters = np.array(list(chain.from_iterable(encoded["offset_mapping"])), np.int64).reshape(-1, 2)
        return TokenizedTexts(ids, characters[:, 0], characters[:, 1], np.concatenate([[0], np.cumsum(counts)]))

    def _from_segments(self, texts: pa.Array) -> TokenizedTexts:
        """Gather tokens segment by segment; a text with bracketed words that are not codes is one segment."""
        if self._ends[-1] > _CACHED:
            self._clear()
        segments = split_segments(texts, self._by_word)
        unknown = [number for number, run in zip(*segments.with_context(CODE), strict=True) if not self._is_codes(run)]
        if unknown:
            segments = split_segments(texts, self._by_word, segments.texts_with_codes(np.array(unknown)))
        numbers = self._cached_numbers(segments)
        starts, stops = self._ends[numbers], self._ends[numbers + 1]
        offsets, gather = concat_ranges(starts, stops)
        ids, begins, ends = self._pool[:, gather]
        shift = np.repeat(segments.starts, stops - starts) * (ends > begins)  # added tokens have no characters
        return TokenizedTexts(ids, begins + shift, ends + shift, offsets[segments.offsets])

    def _is_codes(self, run: str) -> bool:
        known = run in self._known[CODE]
        return known or (run[-1] == ">" and all(f"<{token}>" in self._codes for token in run[1:-1].split("><")))

    def _cached_numbers(self, segments: Segments) -> np.ndarray:
        """(segments,) the cache number of each segment; new ones are tokenized first."""
        number = np.zeros((len(CONTEXTS), len(segments.vocabulary)), np.int64)
        for row, context in enumerate(CONTEXTS):
            ids, texts = segments.with_context(context)
            self._add([text for text in texts if text not in self._known[context]], context)
            number[row, ids] = [self._known[context][text] for text in texts]
        return number[segments.context, segments.ids]

    def _add(self, segments: list[str], context: str) -> None:
        """Tokenize new segments in their context and cache them."""
        if not segments:
            return
        tokens = self._of_codes(segments) if context == CODE else self._of_words(segments, context)
        first = len(self._ends) - 1
        self._known[context].update(zip(segments, range(first, first + len(segments)), strict=True))
        used, more = int(self._ends[-1]), len(tokens.ids)
        if used + more > self._pool.shape[1]:
            self._pool = np.pad(self._pool, ((0, 0), (0, max(more, self._pool.shape[1]))))
        self._pool[:, used : used + more] = tokens.ids, tokens.begins, tokens.ends
        self._ends = np.concatenate([self._ends, used + tokens.offsets[1:]])

    def _of_words(self, segments: list[str], context: str) -> TokenizedTexts:
        """Tokens of segments of words."""
        if context == WHOLE:
            return self._whole(segments, self.special)
        code = next(iter(self._codes))
        if context == TEXT_START:  # followed by a code, whose token is dropped
            tokens = self._whole([segment + code for segment in segments], self.special)
            offsets, gather = concat_ranges(tokens.offsets[:-1], tokens.offsets[1:] - 1)
            return TokenizedTexts(tokens.ids[gather], tokens.begins[gather], tokens.ends[gather], offsets)
        # After a code, many in one text: the tokens between two codes are those of one segment.
        before = code if context == AFTER_CODE else f"{code}a"
        batches = [segments[start : start + _BATCH] for start in range(0, len(segments), _BATCH)]
        tokens = self._whole(["".join(before + segment for segment in batch) for batch in batches], False)
        codes = np.flatnonzero(tokens.ids == self._codes[code])
        starts = codes + len(self._whole([before], False).ids) - len(self._whole([code], False).ids) + 1
        text_ends = tokens.offsets[np.searchsorted(tokens.offsets, codes, "right")]
        offsets, gather = concat_ranges(starts, np.minimum(np.append(codes[1:], len(tokens.ids)), text_ends))
        shift = np.repeat(tokens.begins[codes] + len(before), np.diff(offsets))
        return TokenizedTexts(tokens.ids[gather], tokens.begins[gather] - shift, tokens.ends[gather] - shift, offsets)

    def _of_codes(self, runs: list[str]) -> TokenizedTexts:
        tokens = [[f"<{token}>" for token in run[1:-1].split("><")] for run in runs]
        flat = list(chain.from_iterable(tokens))
        offsets = np.concatenate([[0], np.cumsum([len(run) for run in tokens])])
        sizes = np.array([len(token) for token in flat])
        ends = np.cumsum(sizes)
        ends -= np.repeat((ends - sizes)[offsets[:-1]], np.diff(offsets))
        return TokenizedTexts(np.array([self._codes[token] for token in flat]), ends - sizes, ends, offsets)


def _changes_neighbours(token: AddedToken) -> bool:
    """Whether an added token changes the text next to it, or is matched in normalized text."""
    return bool(token.normalized or token.lstrip or token.rstrip or token.single_word)


def fit_history(row: ExampleRow, window: int, count_tokens: Callable[[str], int]) -> ExampleRow:
    """Drop the oldest items of a history, whole ones, until an example fits; at least one is kept.

    Args:
        row: an example; its `slots` hold the positions of the history's items.
        window: most tokens.
        count_tokens: number of tokens of the example with a given prompt.

    Returns:
        The example with as many items as fit; with one item, or unchanged without a history, even if that is too long.
    """
    items = [slot for slot in row["slots"] if slot["kind"] in _HISTORY]
    low, high = 0, max(0, len(items) - 1)  # fewer items never need more tokens: bisect the number to drop
    while low < high:
        middle = (low + high) // 2
        fits = count_tokens(drop_oldest(row, middle)["prompt"]) <= window
        low, high = (low, middle) if fits else (middle + 1, high)
    return drop_oldest(row, low)


def drop_oldest(row: ExampleRow, count: int) -> ExampleRow:
    """A copy of an example without the `count` oldest items of its history and the text between them."""
    items = [slot for slot in row["slots"] if slot["kind"] in _HISTORY]
    if not count:
        return row
    start, stop = items[0]["start"], items[count]["start"]
    slots = []
    for slot in row["slots"]:
        if slot["start"] >= stop:
            slots.append(slot | {"start": slot["start"] - stop + start, "stop": slot["stop"] - stop + start})
        elif slot["start"] < start:
            slots.append(slot)
    return row | {"prompt": row["prompt"][:start] + row["prompt"][stop:], "slots": slots}
