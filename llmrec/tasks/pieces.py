"""Texts cut into pieces that are tokenized alike wherever they stand: on their bytes, a block of texts at once.

A piece is the code of an item, or a word with the space before it. Every cut is beside an ASCII character, so that
pieces stay whole characters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# How a piece stands: it opens its text, is behind a code, behind a word, is of codes alone, or is a text left whole.
OPENS, BEHIND_CODE, BEHIND_WORD, CODE, WHOLE = STANDS = "\x00\x01\x02\x03\x04"
_OPEN, _CLOSE, _SPACE = b"<> "
# Blanks beyond ASCII, which a single byte does not show; texts of data have none.
_BLANK = r"[\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"


@dataclass(frozen=True)
class Cut:
    """Pieces of a number of texts, one text behind another.

    Attributes:
        words: (words,) the different pieces.
        word: (pieces,) which of them each piece is.
        stands: (pieces,) place in `STANDS`.
        at: (pieces,) the character of its text at which each begins.
        offsets: (texts + 1,) text t has the pieces offsets[t] to offsets[t + 1], at least one.
    """

    words: pa.Array
    word: np.ndarray
    stands: np.ndarray
    at: np.ndarray
    offsets: np.ndarray

    def standing(self, how: str) -> tuple[list[int], list[str]]:
        """Numbers and texts of the words that stand so anywhere."""
        there = np.zeros(len(self.words), bool)
        there[self.word[self.stands == STANDS.index(how)]] = True
        found = np.flatnonzero(there)
        return found.tolist(), self.words.take(pa.array(found)).to_numpy(zero_copy_only=False).tolist()

    def texts_with(self, words: np.ndarray) -> np.ndarray:
        """(texts,) bool, which texts have one of some words standing as codes."""
        found = np.isin(self.word, words) & (self.stands == STANDS.index(CODE))
        return np.logical_or.reduceat(found, self.offsets[:-1])


def cut(texts: pa.Array, by_word: bool, whole: np.ndarray | None = None) -> Cut:
    """Cut texts at their codes, one item's code from the next, and at their words.

    Args:
        texts: (texts,) at least one string, none null.
        by_word: whether words may be told from one another.
        whole: (texts,) bool, those to leave in one piece; others are added: brackets not in pairs, unusual blanks.
    """
    starts, data = _bytes(texts)
    first = np.zeros(len(data) + 1, bool)
    first[starts] = True
    opens, closes, unpaired = _brackets(starts, data)
    whole = unpaired if whole is None else whole | unpaired
    if (data > 127).any():
        whole = whole | pc.match_substring_regex(texts, _BLANK).to_numpy(zero_copy_only=False)
    stands = np.full(len(data), -1, np.int8)  # of the piece that begins at a byte
    if by_word:
        stands[_words(data) & ~first[:-1] & ~first[1:]] = STANDS.index(BEHIND_WORD)
    behind = closes[~first[closes + 1]] + 1
    stands[behind[data[behind] != _OPEN]] = STANDS.index(BEHIND_CODE)
    stands[_items(opens, first, data)] = STANDS.index(CODE)
    if whole.any():
        stands[np.repeat(whole, np.diff(starts))] = -1
    return _pieces(starts, data, stands, whole)


def _bytes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(texts + 1,) where texts begin, and all their bytes."""
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    return starts - starts[0], content[starts[0] : starts[-1]]


def _words(data: np.ndarray) -> np.ndarray:
    """(bytes,) bool, single spaces that a word follows and precedes."""
    beside = np.concatenate([[0], data, [0]])
    before, after = beside[:-2], beside[2:]
    return (data == _SPACE) & (before > _SPACE) & (after > _SPACE) & (after != _OPEN)


def _brackets(starts: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes of opening and of closing brackets, and (texts,) bool, whose brackets are not in pairs: none of theirs."""
    marks = np.flatnonzero((data == _OPEN) | (data == _CLOSE))
    row = np.searchsorted(starts[:-1], marks, "right") - 1
    bounds = np.searchsorted(marks, starts)
    closing = (np.arange(len(marks)) - bounds[row]) % 2 == 1
    unpaired = np.diff(bounds) % 2 == 1
    unpaired[row[(data[marks] == _CLOSE) != closing]] = True
    paired = ~unpaired[row]
    return marks[paired & ~closing], marks[paired & closing], unpaired


def _items(opens: np.ndarray, first: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Of opening brackets those that begin an item: behind no code, or their level is not below the one before."""
    joined = (data[opens - 1] == _CLOSE) & ~first[opens]
    level = data[opens + 1]
    below = level > np.concatenate([[0], level[:-1]]) if len(level) else joined
    return opens[~(joined & below)]


def _pieces(starts: np.ndarray, data: np.ndarray, stands: np.ndarray, whole: np.ndarray) -> Cut:
    inner, texts = np.flatnonzero(stands >= 0), len(starts) - 1
    heads = np.arange(texts) + np.searchsorted(inner, starts[:-1])  # every text opens with a piece, be it empty
    others = np.arange(len(inner)) + np.searchsorted(starts[:-1], inner, "right")
    begins, how = np.full(texts + len(inner) + 1, len(data)), np.empty(texts + len(inner), np.int64)
    begins[heads], begins[others] = starts[:-1], inner
    how[heads] = np.where(whole, STANDS.index(WHOLE), STANDS.index(OPENS))
    how[others] = stands[inner]
    buffers = pa.py_buffer(begins.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))
    told = pa.StringArray.from_buffers(len(how), *buffers).dictionary_encode()
    at = _characters(data, begins[:-1])
    offsets = np.append(heads, len(how))
    at -= np.repeat(at[heads], np.diff(offsets))
    return Cut(told.dictionary, told.indices.to_numpy().astype(np.int64), how, at, offsets)


def _characters(data: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bytes before each place, counted as characters."""
    if not (data > 127).any():
        return places.astype(np.int64)
    return np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])[places]
