"""Tokens of many prompts that share their words: every word and every code is tokenized once and remembered.

A tokenizer cuts a text at its added tokens before anything else, so what stands between two codes becomes the same
tokens wherever it stands. Where no token of a vocabulary reaches from one word over a space into the next, words become
the same tokens too, since no merge could ever join them. Both are checked: the first on texts of every call, the second
on the vocabulary.
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
_WORD = re.compile(r"(?<=\S)(?= \S)")
# A space, as vocabularies write it, behind something that is neither space nor line break nor tab.
_REACHES = re.compile("[^\\s\u0120\u2581\u0109-\u010d][ \u0120\u2581]")
# How a piece of text stands, which is the first character of its key: opening the text, behind a code, behind a word.
_OPENS, _BEHIND_CODE, _BEHIND_WORD = "\x00", "\x01", "\x02"
_CHECKED = 16  # texts of every call that are tokenized both ways: the short way is not trusted blindly
_REMEMBERED = 1 << 22  # tokens of pieces that are kept


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
        added = set(tokenizer.get_added_vocab())
        self._by_word = not any(_REACHES.search(token) for token in tokenizer.get_vocab() if token not in added)
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
        self._number: dict[str, int] = {}  # piece → its number
        self._sizes: list[int] = []  # number → characters
        self._ends = [0]  # number → where its tokens end in the pool, and those of the next begin
        self._pool: list[Tokens] = [(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))]

    def _whole(self, texts: Sequence[str], special: bool) -> list[Tokens]:
        encoded = self.tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [(np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2)) for ids, offsets in pairs]

    def _short(self, texts: Sequence[str]) -> list[Tokens] | None:
        """Tokens gathered piece by piece; None where a bracketed word is no code."""
        cut = [self._pieces(text) for text in texts]
        if self._ends[-1] > _REMEMBERED:
            self._forget()
        flat = [piece for pieces in cut for piece in pieces]
        if not self._learn(list(set(flat).difference(self._number))):
            return None
        self._pool = [tuple(np.concatenate(column) for column in zip(*self._pool, strict=True))]  # type: ignore[list-item]
        numbers = np.fromiter(map(self._number.__getitem__, flat), np.int64, len(flat))
        ends = np.array(self._ends)
        lengths = np.fromiter(map(len, cut), np.int64, len(cut))
        row = np.repeat(np.arange(len(cut)), lengths)
        sizes = np.array(self._sizes)[numbers]
        before = np.cumsum(sizes) - sizes
        shift = before - before[np.cumsum(lengths) - lengths][row]
        counts = ends[numbers + 1] - ends[numbers]
        gather = ragged(ends[numbers], ends[numbers + 1])[1]
        ids, chars = (column[gather] for column in self._pool[0])
        chars += (np.repeat(shift, counts) * (chars[:, 1] > chars[:, 0]))[:, None]  # added tokens have no characters
        cuts = np.cumsum(np.bincount(row, counts, len(cut)))[:-1].astype(np.int64)
        return list(zip(np.split(ids, cuts), np.split(chars, cuts), strict=True))

    def _pieces(self, text: str) -> list[str]:
        """A text cut at its codes, one item's code from the next, and at its words."""
        parts = _RUN.split(text)
        out = self._words(parts[0], _OPENS)
        for run, segment in zip(parts[1::2], parts[2::2], strict=True):
            head = run[: run.find("_") + 1]  # of the first level, such as <a_
            out += run.replace(f">{head}", f">\n{head}").split("\n") if head else [run]
            if segment:
                out += self._words(segment, _BEHIND_CODE)
        return out

    def _words(self, segment: str, mark: str) -> list[str]:
        if not self._by_word:
            return [mark + segment]
        lead, tail = segment[:1] == " ", segment[-1:] == " "
        core = segment[lead : len(segment) - tail]
        words = core.split(" ")
        if words != core.split():  # other blanks than single spaces
            first, *rest = _WORD.split(segment)
            return [mark + first, *[_BEHIND_WORD + word for word in rest]]
        words[-1] += " " * tail
        return [mark + " " * lead + words[0], *[f"{_BEHIND_WORD} {word}" for word in words[1:]]]

    def _learn(self, pieces: list[str]) -> bool:
        """Tokenize pieces not seen before, as they stand; False where one is of bracketed words that are no codes."""
        for run in [piece for piece in pieces if piece.startswith("<")]:
            tokens = [f"<{token}>" for token in run[1:-1].split("><")]
            if not all(token in self._codes for token in tokens):
                return False
            ends = np.cumsum([len(token) for token in tokens])
            starts = ends - [len(token) for token in tokens]
            self._keep(run, np.array([self._codes[token] for token in tokens], np.int64), np.stack([starts, ends], 1))
        code = next(iter(self._codes))
        self._learn_beside(_OPENS, "", code, pieces)
        self._learn_beside(_BEHIND_CODE, code, "", pieces)
        self._learn_beside(_BEHIND_WORD, f"{code}a", "", pieces)
        return True

    def _learn_beside(self, mark: str, before: str, after: str, pieces: list[str]) -> None:
        new = [piece for piece in pieces if piece.startswith(mark)]
        special = self.special and mark == _OPENS
        skip = len(self._whole([before], False)[0][0]) if before else 0
        drop = 1 if after else 0
        beside = [before + piece[1:] + after for piece in new]
        for piece, (ids, chars) in zip(new, self._whole(beside, special) if new else [], strict=True):
            self._keep(piece, ids[skip : len(ids) - drop], chars[skip : len(ids) - drop] - len(before))

    def _keep(self, piece: str, ids: np.ndarray, chars: np.ndarray) -> None:
        self._number[piece] = len(self._sizes)
        self._sizes.append(len(piece) - (not piece.startswith("<")))  # without the key's mark
        self._ends.append(self._ends[-1] + len(ids))
        self._pool.append((ids, chars))


def _reaches_out(token: AddedToken) -> bool:
    """Whether an added token changes what stands beside it, or is itself looked for in changed text."""
    return bool(token.normalized or token.lstrip or token.rstrip or token.single_word)
