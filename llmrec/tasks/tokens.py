"""Tokens of many prompts that share their words: the text between codes is tokenized once and remembered.

A tokenizer cuts a text at its added tokens before anything else, so what stands between two codes becomes the same
tokens wherever it stands. A prompt is a wording, known by heart after its first use, and codes, which are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from llmrec.tasks.cases import ragged

Tokens = tuple[
    np.ndarray, np.ndarray
]  # (length,) int64 ids and (length, 2) int64 characters at which each starts, stops
_RUN = re.compile(r"((?:<[^<>\s]{1,40}>)+)")
_OPENS = "\x00"  # before a segment that opens a text: there, it may be tokenized otherwise
_CHECKED = 16  # texts of every call that are tokenized both ways: the short way is not trusted blindly
_REMEMBERED = 1 << 22  # tokens of segments that are kept


class CodedTexts:
    """Tokenizes texts with codes in them, exactly as the tokenizer does.

    Attributes:
        tokenizer: with the item tokens.
        special: whether it adds its own tokens around a text (`add_special_tokens`).
        trusted: whether the short way gives what the tokenizer gives; where not, every text is tokenized as a whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: bool) -> None:
        self.tokenizer, self.special = tokenizer, special
        self._codes = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if _RUN.fullmatch(token.content) and not _reaches_out(token)
        }
        self.trusted = bool(self._codes)
        self._forget()

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids and characters of every token of each text."""
        if not texts:
            return []
        found = self._short(texts) if self.trusted else None
        if found is None:
            return self._whole(texts, self.special)
        checked = range(0, len(texts), -(-len(texts) // _CHECKED))
        for number, whole in zip(checked, self._whole([texts[n] for n in checked], self.special), strict=True):
            if not all(np.array_equal(one, other) for one, other in zip(found[number], whole, strict=True)):
                self.trusted = False  # this tokenizer looks across its added tokens
                return self._whole(texts, self.special)
        return found

    def _forget(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}  # segment → where its tokens are in the pool
        self._pool: list[Tokens] = [(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))]
        self._size = 0

    def _whole(self, texts: Sequence[str], special: bool) -> list[Tokens]:
        encoded = self.tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [(np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2)) for ids, offsets in pairs]

    def _short(self, texts: Sequence[str]) -> list[Tokens] | None:
        """Tokens gathered segment by segment; None where a bracketed word is no code."""
        split = [_segments(text) for text in texts]
        if self._size > _REMEMBERED:
            self._forget()
        flat = [segment for segments in split for segment in segments]
        if not self._learn(dict.fromkeys(segment for segment in flat if segment not in self._places)):
            return None
        self._pool = [tuple(np.concatenate(column) for column in zip(*self._pool, strict=True))]  # type: ignore[list-item]
        places = np.array([self._places[segment] for segment in flat], np.int64)
        row = np.repeat(np.arange(len(split)), [len(segments) for segments in split])
        sizes = np.array([len(segment) for segment in flat], np.int64)
        opens = np.diff(row, prepend=-1) > 0
        sizes[opens] -= len(_OPENS)
        before = np.cumsum(sizes) - sizes
        counts, gather = np.diff(places)[:, 0], ragged(places[:, 0], places[:, 1])[1]
        ids, chars = (column[gather] for column in self._pool[0])
        shift = np.repeat(before - before[opens][row], counts)
        chars += (shift * (chars[:, 1] > chars[:, 0]))[:, None]  # tokens that the tokenizer adds have no characters
        cuts = np.cumsum(np.bincount(row, counts, len(split)))[:-1].astype(np.int64)
        return list(zip(np.split(ids, cuts), np.split(chars, cuts), strict=True))

    def _learn(self, segments: dict[str, None]) -> bool:
        """Tokenize segments not seen before; False where one is of bracketed words that are no codes."""
        runs = [segment for segment in segments if segment.startswith("<")]
        for run in runs:
            tokens = [f"<{token}>" for token in run[1:-1].split("><")]
            if not all(token in self._codes for token in tokens):
                return False
            ends = np.cumsum([len(token) for token in tokens])
            starts = ends - [len(token) for token in tokens]
            self._keep(run, np.array([self._codes[token] for token in tokens], np.int64), np.stack([starts, ends], 1))
        code = next(iter(self._codes))  # a segment is tokenized beside a code, as it will stand
        opening = [segment for segment in segments if segment.startswith(_OPENS)]
        for segment, (ids, chars) in self._beside(opening, [segment[1:] + code for segment in opening], self.special):
            end = int(np.flatnonzero(ids == self._codes[code])[-1])
            self._keep(segment, ids[:end], chars[:end])
        inner = [segment for segment in segments if not segment.startswith(("<", _OPENS))]
        for segment, (ids, chars) in self._beside(inner, [code + segment for segment in inner], False):
            self._keep(segment, ids[1:], chars[1:] - len(code))
        return True

    def _beside(self, segments: list[str], texts: list[str], special: bool) -> list[tuple[str, Tokens]]:
        return list(zip(segments, self._whole(texts, special), strict=True)) if segments else []

    def _keep(self, segment: str, ids: np.ndarray, chars: np.ndarray) -> None:
        self._places[segment] = (self._size, self._size + len(ids))
        self._pool.append((ids, chars))
        self._size += len(ids)


def _segments(text: str) -> list[str]:
    """A text cut at its codes, one item's code from the next."""
    parts = _RUN.split(text)
    out = [_OPENS + parts[0]]
    for run, segment in zip(parts[1::2], parts[2::2], strict=True):
        head = run[: run.find("_") + 1]  # of the first level, such as <a_
        out += run.replace(f">{head}", f">\n{head}").split("\n") if head else [run]
        if segment:
            out.append(segment)
    return out


def _reaches_out(token: AddedToken) -> bool:
    """Whether an added token changes what stands beside it, or is itself looked for in changed text."""
    return bool(token.normalized or token.lstrip or token.rstrip or token.single_word)
