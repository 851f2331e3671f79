"""Tokens of many prompts that share their words: every word and every code is tokenized once and remembered.

A tokenizer cuts a text at its added tokens before anything else, so what stands between two codes becomes the same
tokens wherever it stands. Where no token of a vocabulary reaches from one word over a space into the next, words become
the same tokens too, since no merge could ever join them. Both are checked: the first on texts of every call, the second
on the vocabulary. The cutting (`pieces.py`) and the joining are done for a block of texts at once, on its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from llmrec.tasks.cases import ragged
from llmrec.tasks.pieces import BEHIND_CODE, CODE, OPENS, STANDS, WHOLE, Cut, cut

_CODE = re.compile(r"<[^<>\s]{1,40}>")
# A space, as vocabularies write it, behind something that is neither space nor line break nor tab.
_REACHES = re.compile("[^\\s\u0120\u2581\u0109-\u010d][ \u0120\u2581]")
_CHECKED = 16  # texts of every call that are tokenized both ways: the short way is not trusted blindly
_REMEMBERED = 1 << 22  # tokens of pieces that are kept
_TOGETHER = 256  # new pieces that are tokenized as one text


@dataclass(frozen=True)
class Tokenized:
    """Tokens of a number of texts, one text behind another.

    Attributes:
        ids: (tokens,) int64.
        begins, ends: (tokens,) int64, the characters of its text at which each token begins and ends.
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
            if _CODE.fullmatch(token.content) and not _reaches_out(token)
        }
        self.trusted = bool(self._codes)
        added = set(tokenizer.get_added_vocab())
        self._by_word = not any(_REACHES.search(token) for token in tokenizer.get_vocab() if token not in added)
        self._forget()

    def __call__(self, texts: pa.Array) -> Tokenized:
        """Ids and characters of every token of each text.

        Args:
            texts: (texts,) strings, none of them null.
        """
        if not self.trusted or not len(texts):
            return self._whole(texts.to_pylist(), self.special)
        found = self._short(texts)
        checked = list(range(0, len(texts), -(-len(texts) // _CHECKED)))
        truth = self._whole(texts.take(pa.array(checked)).to_pylist(), self.special)
        for place, number in enumerate(checked):
            if not all(np.array_equal(*pair) for pair in zip(found.text(number), truth.text(place), strict=True)):
                self.trusted = False  # this tokenizer looks across its added tokens
                return self._whole(texts.to_pylist(), self.special)
        return found

    def _forget(self) -> None:
        self._known: dict[str, dict[str, int]] = {how: {} for how in STANDS}  # as it stands → piece → its number
        self._ends = np.zeros(1, np.int64)  # number → where its tokens end in the pool, and those of the next begin
        self._pool = np.zeros((3, 1 << 12), np.int64)  # ids, begins and ends; grows by doubling

    def _whole(self, texts: list[str], special: bool) -> Tokenized:
        if not texts:
            none = np.zeros(0, np.int64)
            return Tokenized(none, none, none, np.zeros(1, np.int64))
        encoded = self.tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
        counts = np.fromiter(map(len, encoded["input_ids"]), np.int64, len(texts))
        ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), np.int64, counts.sum())
        chars = np.array(list(chain.from_iterable(encoded["offset_mapping"])), np.int64).reshape(-1, 2)
        return Tokenized(ids, chars[:, 0], chars[:, 1], np.concatenate([[0], np.cumsum(counts)]))

    def _short(self, texts: pa.Array) -> Tokenized:
        """Tokens gathered piece by piece; a text with bracketed words that are no codes is one piece."""
        if self._ends[-1] > _REMEMBERED:
            self._forget()
        parts = cut(texts, self._by_word)
        foreign = [number for number, run in zip(*parts.standing(CODE), strict=True) if not self._is_of_codes(run)]
        if foreign:
            parts = cut(texts, self._by_word, parts.texts_with(np.array(foreign)))
        numbers = self._numbered(parts)
        starts, stops = self._ends[numbers], self._ends[numbers + 1]
        offsets, gather = ragged(starts, stops)
        ids, begins, ends = self._pool[:, gather]
        shift = np.repeat(parts.at, stops - starts) * (ends > begins)  # added tokens have no characters
        return Tokenized(ids, begins + shift, ends + shift, offsets[parts.offsets])

    def _is_of_codes(self, run: str) -> bool:
        known = run in self._known[CODE]
        return known or (run[-1] == ">" and all(f"<{token}>" in self._codes for token in run[1:-1].split("><")))

    def _numbered(self, parts: Cut) -> np.ndarray:
        """(pieces,) the number of each piece; those not seen before are learnt."""
        number = np.zeros((len(STANDS), len(parts.words)), np.int64)
        for place, how in enumerate(STANDS):
            words, pieces = parts.standing(how)
            self._learn([piece for piece in pieces if piece not in self._known[how]], how)
            number[place, words] = [self._known[how][piece] for piece in pieces]
        return number[parts.stands, parts.word]

    def _learn(self, pieces: list[str], how: str) -> None:
        """Tokenize pieces not seen before, as they stand."""
        if not pieces:
            return
        tokens = self._of_codes(pieces) if how == CODE else self._standing(pieces, how)
        self._known[how].update(zip(pieces, range(len(self._ends) - 1, len(self._ends) - 1 + len(pieces)), strict=True))
        kept, more = int(self._ends[-1]), len(tokens.ids)
        if kept + more > self._pool.shape[1]:
            self._pool = np.pad(self._pool, ((0, 0), (0, max(more, self._pool.shape[1]))))
        self._pool[:, kept : kept + more] = tokens.ids, tokens.begins, tokens.ends
        self._ends = np.concatenate([self._ends, kept + tokens.offsets[1:]])

    def _standing(self, pieces: list[str], how: str) -> Tokenized:
        """Tokens of pieces of words."""
        if how == WHOLE:
            return self._whole(pieces, self.special)
        code = next(iter(self._codes))
        if how == OPENS:  # before a code, whose token is dropped
            found = self._whole([piece + code for piece in pieces], self.special)
            offsets, gather = ragged(found.offsets[:-1], found.offsets[1:] - 1)
            return Tokenized(found.ids[gather], found.begins[gather], found.ends[gather], offsets)
        # behind a code, many in a text: tokens between codes are those of one piece
        before = code if how == BEHIND_CODE else f"{code}a"
        found = self._whole(["".join(before + piece for piece in some) for some in _batched(pieces, _TOGETHER)], False)
        codes = np.flatnonzero(found.ids == self._codes[code])
        starts = codes + len(self._whole([before], False).ids) - len(self._whole([code], False).ids) + 1
        texts_end = found.offsets[np.searchsorted(found.offsets, codes, "right")]
        offsets, gather = ragged(starts, np.minimum(np.append(codes[1:], len(found.ids)), texts_end))
        shift = np.repeat(found.begins[codes] + len(before), np.diff(offsets))
        return Tokenized(found.ids[gather], found.begins[gather] - shift, found.ends[gather] - shift, offsets)

    def _of_codes(self, runs: list[str]) -> Tokenized:
        tokens = [[f"<{token}>" for token in run[1:-1].split("><")] for run in runs]
        flat = list(chain.from_iterable(tokens))
        offsets = np.concatenate([[0], np.cumsum([len(run) for run in tokens])])
        sizes = np.array([len(token) for token in flat])
        ends = np.cumsum(sizes)
        ends -= np.repeat((ends - sizes)[offsets[:-1]], np.diff(offsets))
        return Tokenized(np.array([self._codes[token] for token in flat]), ends - sizes, ends, offsets)


def _batched(pieces: list[str], size: int) -> Iterator[list[str]]:
    """Pieces in lists of at most so many."""
    yield from (pieces[start : start + size] for start in range(0, len(pieces), size))


def _reaches_out(token: AddedToken) -> bool:
    """Whether an added token changes what stands beside it, or is itself looked for in changed text."""
    return bool(token.normalized or token.lstrip or token.rstrip or token.single_word)
