"""Three kinds of answer, and where in one a row stands: a function of the answer's tokens alone.

item   one item's code, then the end.
items  codes of different items with a separator between them, then the end.
chat   free words; after the mention token a real item's code, then free words again.

Nothing is remembered from one token to the next, so beams may be reordered, and a server may preempt rows, resume them
and recycle their slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.indexing.trie import ROOT, Trie

Mode = Literal["item", "items", "chat"]
PAD, OUTSIDE, NEVER = -1, -2, -3  # no token here; a token that is no symbol; one that no answer holds
SEPARATOR = ", "


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
    """Reads answers: which tokens are symbols, which part items, which announces one."""

    def __init__(
        self,
        trie: Trie,
        tokens: np.ndarray,
        end: int | None,
        separator: Sequence[int] = (),
        mention: int | None = None,
        words: int | None = None,
    ) -> None:
        """Say what the tokens mean.

        Args:
            tokens: (n_symbols,) the model's token of each symbol.
            end: the token that ends an answer; None if nobody looks past an item.
            separator: tokens between two items, for `items`.
            mention: the token that an item's code follows, for `chat`; None: no item can be mentioned.
            words: token ids from here on stand for nothing, being rows that pad the embedding; None: there are none.
        """
        self.trie, self.tokens, self.end = trie, np.asarray(tokens, np.int64), end
        self.separator, self.mention, self.words = np.asarray(separator, np.int64), mention, words
        self.symbol_of = np.full(int(self.tokens.max()) + 2, OUTSIDE, np.int64)
        self.symbol_of[self.tokens] = np.arange(len(self.tokens))

    def reach(self, mode: Mode) -> int | None:
        """How many tokens tell where an answer stands: an item's first, all of a list's (None), a chat's last."""
        return {"item": self.trie.depth, "items": None, "chat": self.trie.depth + 1}[mode]

    def read(self, answers: np.ndarray, mode: Mode) -> Places:
        """Where each answer stands.

        Args:
            answers: (n, length) tokens since each answer began, padded by -1.

        Raises:
            ModelError: a list without a separator.
        """
        if mode == "items" and not len(self.separator):
            raise ModelError("a list of items needs the tokens that part them: give `separator`.")
        return {"item": self._item, "items": self._items, "chat": self._chat}[mode](answers)

    def _symbols(self, tokens: np.ndarray) -> np.ndarray:
        return np.where(tokens < 0, OUTSIDE, self.symbol_of[np.clip(tokens, 0, len(self.symbol_of) - 1)])

    def _step(self, node: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) child under each token, -1 where there is none, and whether it is a whole code."""
        child = self.trie.child(node, self._symbols(tokens))
        return child, (child >= 0) & self.trie.is_leaf(np.maximum(child, 0))

    def _item(self, answers: np.ndarray) -> Places:
        """What follows an item's code is ignored."""
        node, ended = np.full(len(answers), ROOT, np.int64), np.zeros(len(answers), bool)
        for tokens in answers.T:
            child, whole = self._step(node, tokens)
            going = ~ended & (tokens != PAD)
            node, ended = np.where(going, child, node), ended | (going & whole)
        none = np.zeros(0, np.int64)
        return Places(np.where(ended, -1, node), np.full(len(node), -1), ended, np.zeros(len(node), bool), none, none)

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
        row, position = np.concatenate(given, axis=1)
        node = np.where(over | parting, -1, node)
        return Places(node, fixed, over | (parting & (passed == 0)), np.zeros(n, bool), row, position)

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
        free, none = node < 0, np.zeros(0, np.int64)
        return Places(node, np.full(len(node), -1), free, free, none, none)


def separator_tokens(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    """Tokens of the separator as they stand between two item tokens, whatever a tokenizer does at a text's start."""
    ids = tokenizer(token + SEPARATOR + token, add_special_tokens=False)["input_ids"]
    own = tokenizer.convert_tokens_to_ids(token)
    first = list(ids).index(own)
    return list(ids)[first + 1 : list(ids).index(own, first + 1)]
