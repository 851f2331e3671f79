"""Three kinds of answer, and the tokens that each may go on with: a function of the answer's tokens alone.

item   one item's code, then the end.
items  codes of different items with a separator between them, then the end.
chat   free words; after the mention token a real item's code, then free words again.

No state is kept between tokens, so beams may be reordered, and a server may preempt rows, resume them and recycle their
slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llmrec.decode.filters import Filters
from llmrec.errors import ModelError
from llmrec.indexing.trie import ROOT, Trie

Mode = Literal["item", "items", "chat"]
PAD, OUTSIDE, NEVER = -1, -2, -3  # no token here; a token that is no symbol; one that no answer holds
SEPARATOR = ", "
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Places:
    """What may come next in each of n answers.

    Attributes:
        node: (n,) int64, the trie node whose children may come; -1 where no item token may.
        fixed: (n,) int64, the one token of a separator that may come; -1 where none may.
        end: (n,) bool, whether the answer may end here.
        free: (n,) bool, whether any word may come.
        row, position: (given,) int64, sorted positions of the items that stand in an answer already, and in which.
    """

    node: np.ndarray
    fixed: np.ndarray
    end: np.ndarray
    free: np.ndarray
    row: np.ndarray
    position: np.ndarray


class Answers:
    """Reads answers: which tokens are symbols, which separate items, which announces an item."""

    def __init__(
        self,
        trie: Trie,
        tokens: np.ndarray,
        end: int | None,
        separator: Sequence[int] = (),
        mention: int | None = None,
        words: int | None = None,
    ) -> None:
        """Set the meaning of tokens.

        Args:
            tokens: (n_symbols,) the model's token of each symbol.
            end: the token that ends an answer; None where generation always stops after an item.
            separator: tokens between two items, for `items`.
            mention: the token before an item's code, for `chat`; None: no item can be mentioned.
            words: size of the tokenizer, where the embedding has more rows for padding; None: it has not.
        """
        self.trie, self.tokens, self.end = trie, np.asarray(tokens, np.int64), end
        self.separator, self.mention, self.words = np.asarray(separator, np.int64), mention, words
        self.symbol_of = np.full(int(self.tokens.max()) + 2, OUTSIDE, np.int64)
        self.symbol_of[self.tokens] = np.arange(len(self.tokens))

    def reach(self, mode: Mode) -> int | None:
        """How many tokens decide what comes next: an item's first, all of a list's (None), a chat's last."""
        return {"item": self.trie.depth, "items": None, "chat": self.trie.depth + 1}[mode]

    def read(self, answers: np.ndarray, mode: Mode) -> Places:
        """What may come next in each answer (n, length), padded by -1; a ModelError for a list without a separator."""
        if mode == "items" and not len(self.separator):
            raise ModelError("a list of items needs the tokens that part them: give `separator`.")
        return {"item": self._item, "items": self._items, "chat": self._chat}[mode](answers)

    def _step(self, node: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) child under each token, -1 where there is none, and whether it is a whole code."""
        symbols = np.where(tokens < 0, OUTSIDE, self.symbol_of[np.clip(tokens, 0, len(self.symbol_of) - 1)])
        child = self.trie.child(node, symbols)
        return child, (child >= 0) & self.trie.is_leaf(np.maximum(child, 0))

    def _item(self, answers: np.ndarray) -> Places:
        """What follows an item's code is ignored."""
        node, ended = np.full(len(answers), ROOT, np.int64), np.zeros(len(answers), bool)
        for tokens in answers.T:
            child, whole = self._step(node, tokens)
            going = ~ended & (tokens != PAD)
            node, ended = np.where(going, child, node), ended | (going & whole)
        return Places(np.where(ended, -1, node), np.full(len(node), -1), ended, np.zeros(len(node), bool), NONE, NONE)

    def _items(self, answers: np.ndarray) -> Places:
        """A token that fits nowhere leaves the answer nothing to go on with; one after the end is ignored."""
        n = len(answers)
        node, passed = np.full(n, ROOT, np.int64), np.full(n, -1)  # separator tokens passed; -1 within a code
        over = np.zeros(n, bool)
        given: list[np.ndarray] = [np.zeros((2, 0), np.int64)]
        for tokens in answers.T:
            going = ~over & (tokens != PAD)
            coding, parting = going & (passed < 0), going & (passed >= 0)
            child, whole = self._step(np.where(coding, node, -1), tokens)
            whole &= coding
            given.append(np.stack([np.flatnonzero(whole), self.trie.start[child[whole]]]))
            fits = parting & (tokens == self.separator[np.clip(passed, 0, len(self.separator) - 1)])
            over |= parting & ~fits
            node = np.where(coding, child, node)
            passed = np.where(whole, 0, np.where(fits, passed + 1, passed))
            begun = passed == len(self.separator)
            node, passed = np.where(begun, ROOT, node), np.where(begun, -1, passed)
        parting = ~over & (passed >= 0)
        fixed = np.where(parting, self.separator[np.clip(passed, 0, None)], -1)
        node = np.where(over | parting, -1, node)
        end = over | (parting & (passed == 0))
        return Places(node, fixed, end, np.zeros(n, bool), *np.concatenate(given, axis=1))

    def _chat(self, answers: np.ndarray) -> Places:
        """The last mention decides; words after a whole code, or after what is no code, are free again."""
        columns = np.arange(answers.shape[1])
        mention = NEVER if self.mention is None else self.mention
        opened = np.where(answers == mention, columns, -1).max(1, initial=-1)
        node = np.where(opened >= 0, ROOT, -1)
        for column, tokens in enumerate(answers.T):
            child, whole = self._step(node, tokens)
            going = (column > opened) & (tokens != PAD) & (node >= 0)
            node = np.where(going, np.where(whole, -1, child), node)
        free = node < 0
        return Places(node, np.full(len(node), -1), free, free, NONE, NONE)


def separator_tokens(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    """Tokens of the separator as they stand between two item tokens, whatever a tokenizer does at a text's start."""
    ids = list(tokenizer(token + SEPARATOR + token, add_special_tokens=False)["input_ids"])
    own = tokenizer.convert_tokens_to_ids(token)
    first = ids.index(own)
    return ids[first + 1 : ids.index(own, first + 1)]


def mask(
    logits: Tensor,
    rows: np.ndarray,
    answers: np.ndarray,
    filters: Filters,
    reader: Answers,
    mode: Mode = "item",
    room: np.ndarray | None = None,
) -> np.ndarray:
    """Mask, in place, what may not come next.

    Args:
        logits: (batch, vocabulary), on any device.
        rows: (n,) the rows that these answers belong to; others are left alone.
        answers: (n, length) tokens since each answer began, padded by -1; see `Answers.reach`.
        filters: of these n rows.
        room: (n,) tokens that each row may still generate; no item is begun that would be cut short. None: enough.

    Returns:
        (n,) bool, the rows that begin no allowed item; they may only end.
    """
    places = reader.read(answers, mode)
    filters = filters.without(places.row, places.position) if len(places.row) else filters
    row, token = _item_tokens(places, filters, reader)
    begin = _may_begin(len(rows), filters, reader, mode, room)
    parted = np.flatnonzero((places.fixed >= 0) & (begin | ~places.end))  # a separator once begun goes on
    ending = np.flatnonzero(places.end & ~places.free)
    choices = np.bincount(np.concatenate([row, parted, ending]), minlength=len(rows))
    lost = (choices == 0) & ~places.free
    ending = NONE if reader.end is None else np.concatenate([ending, np.flatnonzero(lost)])
    row = np.concatenate([row, parted, ending])
    token = np.concatenate([token, places.fixed[parted], np.full(len(ending), reader.end or 0)])
    _only(logits, rows[~places.free], rows[row], token)
    if places.free.any():
        _words(logits, rows, places.free, begin, reader)
    return lost


def _item_tokens(places: Places, filters: Filters, reader: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(edges,) which answer, and (edges,) token, of every item token that may come."""
    going = np.flatnonzero(places.node >= 0)
    source, symbol, child = reader.trie.children(places.node[going])
    if filters.any:
        keep = filters.keep(going, places.node[going], source, child)
        source, symbol = source[keep], symbol[keep]
    return going[source], reader.tokens[symbol]


def _may_begin(n: int, filters: Filters, reader: Answers, mode: Mode, room: np.ndarray | None) -> np.ndarray:
    """(n,) bool, whether another item could be given, and generated to its end."""
    need = reader.trie.depth + (1 if mode == "chat" else len(reader.separator))
    left = filters.left() > 0
    return left if room is None else left & (room >= need)


def _only(logits: Tensor, rows: np.ndarray, row: np.ndarray, token: np.ndarray) -> None:
    """Forbid all but some tokens in some rows."""
    place = (torch.from_numpy(row).to(logits.device), torch.from_numpy(token).to(logits.device))
    kept = logits[place]
    if len(rows) == len(logits):
        logits.fill_(-torch.inf)
    else:
        logits.index_fill_(0, torch.from_numpy(rows).to(logits.device), -torch.inf)
    logits[place] = kept


def _words(logits: Tensor, rows: np.ndarray, free: np.ndarray, begin: np.ndarray, reader: Answers) -> None:
    """Forbid item tokens among free words, ids that are no word, and a mention that no item could follow."""
    place = torch.from_numpy(rows[free]).to(logits.device)
    logits[place[:, None], torch.from_numpy(reader.tokens).to(logits.device)] = -torch.inf
    if reader.words is not None:
        logits[place, reader.words :] = -torch.inf
    if reader.mention is not None:
        logits[torch.from_numpy(rows[free & ~begin]).to(logits.device), reader.mention] = -torch.inf
