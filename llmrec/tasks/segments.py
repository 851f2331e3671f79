"""Split texts into segments whose tokens do not depend on their neighbours; vectorized over the bytes of many texts.

A segment is the code of an item, or a word with the space before it. Every cut is next to an ASCII character, so
segments never split a multi-byte character.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Context of a segment: first of its text, after a code, after a word, codes only, or a whole text that is not split.
TEXT_START, AFTER_CODE, AFTER_WORD, CODE, WHOLE = CONTEXTS = "\x00\x01\x02\x03\x04"
_OPEN, _CLOSE, _SPACE = b"<> "
# Spaces beyond ASCII, which a single byte does not show; data texts have none.
_BLANK = r"[\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"


@dataclass(frozen=True)
class Segments:
    """Segments of a batch of texts, concatenated.

    Attributes:
        vocabulary: (distinct,) the distinct segments.
        ids: (segments,) index of each segment in `vocabulary`.
        context: (segments,) index in `CONTEXTS`.
        starts: (segments,) character of its text at which each segment starts.
        offsets: (texts + 1,) text t has the segments offsets[t] to offsets[t + 1], at least one.
    """

    vocabulary: pa.Array
    ids: np.ndarray
    context: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray

    def with_context(self, context: str) -> tuple[list[int], list[str]]:
        """Indexes and texts of the distinct segments that occur in a context."""
        mask = np.zeros(len(self.vocabulary), bool)
        mask[self.ids[self.context == CONTEXTS.index(context)]] = True
        ids = np.flatnonzero(mask)
        return ids.tolist(), self.vocabulary.take(pa.array(ids)).to_numpy(zero_copy_only=False).tolist()

    def texts_with_codes(self, ids: np.ndarray) -> np.ndarray:
        """(texts,) bool, which texts have one of some segments as a code."""
        matches = np.isin(self.ids, ids) & (self.context == CONTEXTS.index(CODE))
        return np.logical_or.reduceat(matches, self.offsets[:-1])


def split_segments(texts: pa.Array, by_word: bool, whole: np.ndarray | None = None) -> Segments:
    """Split texts at item codes, between the codes of two items, and at words.

    Args:
        texts: (texts,) at least one string, none null.
        by_word: whether words may be separated from one another.
        whole: (texts,) bool, texts not to split; texts with unpaired brackets or unusual spaces are not split either.
    """
    starts, data = _bytes(texts)
    first = np.zeros(len(data) + 1, bool)
    first[starts] = True
    opens, closes, unpaired = _brackets(starts, data)
    whole = unpaired if whole is None else whole | unpaired
    if (data > 127).any():
        whole = whole | pc.match_substring_regex(texts, _BLANK).to_numpy(zero_copy_only=False)
    context = np.full(len(data), -1, np.int8)  # of the segment that starts at a byte; -1 inside segments
    if by_word:
        context[_word_starts(data) & ~first[:-1] & ~first[1:]] = CONTEXTS.index(AFTER_WORD)
    after_code = closes[~first[closes + 1]] + 1
    context[after_code[data[after_code] != _OPEN]] = CONTEXTS.index(AFTER_CODE)
    context[_item_starts(opens, first, data)] = CONTEXTS.index(CODE)
    if whole.any():
        context[np.repeat(whole, np.diff(starts))] = -1
    return _collect(starts, data, context, whole)


def _bytes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(texts + 1,) where texts start, and all their bytes."""
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    return starts - starts[0], content[starts[0] : starts[-1]]


def _word_starts(data: np.ndarray) -> np.ndarray:
    """(bytes,) bool, single spaces between two words."""
    padded = np.concatenate([[0], data, [0]])
    before, after = padded[:-2], padded[2:]
    return (data == _SPACE) & (before > _SPACE) & (after > _SPACE) & (after != _OPEN)


def _brackets(starts: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes of opening and of closing brackets, and (texts,) bool: texts with unpaired ones, which are left out."""
    marks = np.flatnonzero((data == _OPEN) | (data == _CLOSE))
    row = np.searchsorted(starts[:-1], marks, "right") - 1
    bounds = np.searchsorted(marks, starts)
    closing = (np.arange(len(marks)) - bounds[row]) % 2 == 1
    unpaired = np.diff(bounds) % 2 == 1
    unpaired[row[(data[marks] == _CLOSE) != closing]] = True
    paired = ~unpaired[row]
    return marks[paired & ~closing], marks[paired & closing], unpaired


def _item_starts(opens: np.ndarray, first: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Opening brackets that start an item: not after a code, or of a level that is not below the previous one."""
    joined = (data[opens - 1] == _CLOSE) & ~first[opens]
    level = data[opens + 1]
    below = level > np.concatenate([[0], level[:-1]]) if len(level) else joined
    return opens[~(joined & below)]


def _collect(starts: np.ndarray, data: np.ndarray, context: np.ndarray, whole: np.ndarray) -> Segments:
    inner, texts = np.flatnonzero(context >= 0), len(starts) - 1
    heads = np.arange(texts) + np.searchsorted(inner, starts[:-1])  # every text starts with a segment, maybe empty
    others = np.arange(len(inner)) + np.searchsorted(starts[:-1], inner, "right")
    begins, contexts = np.full(texts + len(inner) + 1, len(data)), np.empty(texts + len(inner), np.int64)
    begins[heads], begins[others] = starts[:-1], inner
    contexts[heads] = np.where(whole, CONTEXTS.index(WHOLE), CONTEXTS.index(TEXT_START))
    contexts[others] = context[inner]
    buffers = pa.py_buffer(begins.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))
    encoded = pa.StringArray.from_buffers(len(contexts), *buffers).dictionary_encode()
    characters = _characters(data, begins[:-1])
    offsets = np.append(heads, len(contexts))
    characters -= np.repeat(characters[heads], np.diff(offsets))
    return Segments(encoded.dictionary, encoded.indices.to_numpy().astype(np.int64), contexts, characters, offsets)


def _characters(data: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Number of characters before each byte position."""
    if not (data > 127).any():
        return positions.astype(np.int64)
    return np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])[positions]
