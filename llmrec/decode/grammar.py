"""Constrained generation: which tokens may follow the tokens of an answer, in three modes.

item   the code of one item, then the end.
items  codes of different items with a separator between them, then the end.
chat   free text; after the mention token the code of a real item, then free text again.

The state is computed from the answer's tokens at each step, so beams may be reordered, and a server may preempt rows,
resume them and recycle their slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from llmrec.decode.filters import BatchFilters, Filter
from llmrec.errors import CodeError, ModelError, RequestError
from llmrec.indexing.trie import ROOT, Trie

Mode = Literal["item", "items", "chat"]
PAD, OUTSIDE, NEVER = -1, -2, -3  # no token; a token that is no symbol; a token that no answer contains
SEPARATOR = ", "
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class GrammarState:
    """What may come next in each of n answers.

    Attributes:
        node: (n,) int64, the trie node whose children may come; -1 where no item token may.
        separator: (n,) int64, the one token of a separator that may come; -1 where none may.
        may_end: (n,) bool, whether the answer may end here.
        free_text: (n,) bool, whether any text token may come.
        row, position: (items,) int64, answer and sorted position of every item that the answers already contain.
    """

    node: np.ndarray
    separator: np.ndarray
    may_end: np.ndarray
    free_text: np.ndarray
    row: np.ndarray
    position: np.ndarray


class OutputGrammar:
    """The grammar of answers over a catalogue: item codes, separators, mentions and the end token."""

    def __init__(
        self,
        trie: Trie,
        tokens: np.ndarray,
        end_token: int | None,
        separator: Sequence[int] = (),
        mention_token: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """Set the meaning of tokens.

        Args:
            tokens: (n_symbols,) the model's token of each symbol.
            end_token: ends an answer; None where generation always stops after an item.
            separator: tokens between two items, for the mode `items`.
            mention_token: comes before an item's code, in the mode `chat`; None: no item can be mentioned.
            vocab_size: of the tokenizer, where the embedding has more rows for padding; None: it has none.
        """
        self.trie, self.tokens, self.end_token = trie, np.asarray(tokens, np.int64), end_token
        self.separator, self.mention_token = np.asarray(separator, np.int64), mention_token
        self.vocab_size = vocab_size
        self.symbol_of = np.full(int(self.tokens.max()) + 2, OUTSIDE, np.int64)
        self.symbol_of[self.tokens] = np.arange(len(self.tokens))

    def tokens_needed(self, mode: Mode) -> int | None:
        """Tokens of an answer that decide its state: the first ones (`item`), the last ones (`chat`), or all (None)."""
        return {"item": self.trie.depth, "items": None, "chat": self.trie.depth + 1}[mode]

    def parse(self, answers: np.ndarray, mode: Mode) -> GrammarState:
        """State of each answer (n, length), padded by -1; a ModelError for `items` without a separator."""
        if mode == "items" and not len(self.separator):
            raise ModelError("a list of items needs the tokens between them: pass `separator`.")
        return {"item": self._item, "items": self._items, "chat": self._chat}[mode](answers)

    def _step(self, node: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) child under each token, -1 where there is none, and whether it completes a code."""
        symbols = np.where(tokens < 0, OUTSIDE, self.symbol_of[np.clip(tokens, 0, len(self.symbol_of) - 1)])
        child = self.trie.child(node, symbols)
        return child, (child >= 0) & self.trie.is_leaf(np.maximum(child, 0))

    def _item(self, answers: np.ndarray) -> GrammarState:
        """Tokens after the item's code are ignored."""
        node, ended = np.full(len(answers), ROOT, np.int64), np.zeros(len(answers), bool)
        for tokens in answers.T:
            child, complete = self._step(node, tokens)
            active = ~ended & (tokens != PAD)
            node, ended = np.where(active, child, node), ended | (active & complete)
        no_token, no_text = np.full(len(node), -1), np.zeros(len(node), bool)
        return GrammarState(np.where(ended, -1, node), no_token, ended, no_text, NONE, NONE)

    def _items(self, answers: np.ndarray) -> GrammarState:
        """An answer with a token that fits nowhere has no continuation; tokens after the end are ignored."""
        n = len(answers)
        node, n_separator = np.full(n, ROOT, np.int64), np.full(n, -1)  # separator tokens seen; -1 within a code
        ended = np.zeros(n, bool)
        items: list[np.ndarray] = [np.zeros((2, 0), np.int64)]
        for tokens in answers.T:
            active = ~ended & (tokens != PAD)
            in_code, in_separator = active & (n_separator < 0), active & (n_separator >= 0)
            child, complete = self._step(np.where(in_code, node, -1), tokens)
            complete &= in_code
            items.append(np.stack([np.flatnonzero(complete), self.trie.start[child[complete]]]))
            matches = in_separator & (tokens == self.separator[np.clip(n_separator, 0, len(self.separator) - 1)])
            ended |= in_separator & ~matches
            node = np.where(in_code, child, node)
            n_separator = np.where(complete, 0, np.where(matches, n_separator + 1, n_separator))
            next_item = n_separator == len(self.separator)
            node, n_separator = np.where(next_item, ROOT, node), np.where(next_item, -1, n_separator)
        in_separator = ~ended & (n_separator >= 0)
        separator = np.where(in_separator, self.separator[np.clip(n_separator, 0, None)], -1)
        node = np.where(ended | in_separator, -1, node)
        may_end = ended | (in_separator & (n_separator == 0))
        return GrammarState(node, separator, may_end, np.zeros(n, bool), *np.concatenate(items, axis=1))

    def _chat(self, answers: np.ndarray) -> GrammarState:
        """The last mention decides; text is free again after a complete code, or after tokens that are no code."""
        columns = np.arange(answers.shape[1])
        mention_token = NEVER if self.mention_token is None else self.mention_token
        last_mention = np.where(answers == mention_token, columns, -1).max(1, initial=-1)
        node = np.where(last_mention >= 0, ROOT, -1)
        for column, tokens in enumerate(answers.T):
            child, complete = self._step(node, tokens)
            active = (column > last_mention) & (tokens != PAD) & (node >= 0)
            node = np.where(active, np.where(complete, -1, child), node)
        free_text = node < 0
        return GrammarState(node, np.full(len(node), -1), free_text, free_text, NONE, NONE)


def separator_tokens(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    """Tokens of the separator between two item tokens, as the tokenizer writes them inside a text."""
    ids = list(tokenizer(token + SEPARATOR + token, add_special_tokens=False)["input_ids"])
    item_token = tokenizer.convert_tokens_to_ids(token)
    first = ids.index(item_token)
    return ids[first + 1 : ids.index(item_token, first + 1)]


def mask_logits(
    logits: Tensor,
    rows: np.ndarray,
    answers: np.ndarray,
    filters: BatchFilters,
    grammar: OutputGrammar,
    mode: Mode = "item",
    tokens_left: np.ndarray | None = None,
) -> np.ndarray:
    """Set the logits of tokens that may not come next to -inf, in place.

    Args:
        logits: (batch, vocabulary), on any device.
        rows: (n,) the rows that these answers belong to; other rows are not changed.
        answers: (n, length) tokens of each answer so far, padded by -1; see `OutputGrammar.tokens_needed`.
        filters: of these n rows.
        tokens_left: (n,) tokens that each row may still generate; no item is begun that would be cut short. None:
            enough.

    Returns:
        (n,) bool, rows in which no allowed item can follow; they may only end.
    """
    state = grammar.parse(answers, mode)
    filters = filters.deny_more(state.row, state.position) if len(state.row) else filters
    row, token = _item_tokens(state, filters, grammar)
    may_begin = filters.n_allowed() > 0
    if tokens_left is not None:
        may_begin &= tokens_left >= grammar.trie.depth + (1 if mode == "chat" else len(grammar.separator))
    separated = np.flatnonzero((state.separator >= 0) & (may_begin | ~state.may_end))  # a begun separator is completed
    ending = np.flatnonzero(state.may_end & ~state.free_text)
    choices = np.bincount(np.concatenate([row, separated, ending]), minlength=len(rows))
    stuck = (choices == 0) & ~state.free_text
    ending = NONE if grammar.end_token is None else np.concatenate([ending, np.flatnonzero(stuck)])
    row = np.concatenate([row, separated, ending])
    token = np.concatenate([token, state.separator[separated], np.full(len(ending), grammar.end_token or 0)])
    _keep_only(logits, rows[~state.free_text], rows[row], token)
    if state.free_text.any():
        _mask_text(logits, rows, state.free_text, may_begin, grammar)
    return stuck


def _item_tokens(state: GrammarState, filters: BatchFilters, grammar: OutputGrammar) -> tuple[np.ndarray, np.ndarray]:
    """(edges,) answer, and (edges,) token, of every item token that may come."""
    active = np.flatnonzero(state.node >= 0)
    source, symbol, child = grammar.trie.children(state.node[active])
    if filters.any:
        keep = filters.keep_children(active, state.node[active], source, child)
        source, symbol = source[keep], symbol[keep]
    return active[source], grammar.tokens[symbol]


def _keep_only(logits: Tensor, rows: np.ndarray, row: np.ndarray, token: np.ndarray) -> None:
    """Mask everything in some rows but (row, token) pairs."""
    index = (torch.from_numpy(row).to(logits.device), torch.from_numpy(token).to(logits.device))
    kept = logits[index]
    if len(rows) == len(logits):
        logits.fill_(-torch.inf)
    else:
        logits.index_fill_(0, torch.from_numpy(rows).to(logits.device), -torch.inf)
    logits[index] = kept


def _mask_text(
    logits: Tensor, rows: np.ndarray, free_text: np.ndarray, may_begin: np.ndarray, grammar: OutputGrammar
) -> None:
    """In free text mask item tokens, rows of the embedding that are padding, and mentions that no item could follow."""
    index = torch.from_numpy(rows[free_text]).to(logits.device)
    logits[index[:, None], torch.from_numpy(grammar.tokens).to(logits.device)] = -torch.inf
    if grammar.vocab_size is not None:
        logits[index, grammar.vocab_size :] = -torch.inf
    if grammar.mention_token is not None:
        logits[torch.from_numpy(rows[free_text & ~may_begin]).to(logits.device), grammar.mention_token] = -torch.inf


class ItemProcessor(LogitsProcessor):
    """The grammar as a transformers logits processor: `generate(logits_processor=[ItemProcessor(...)])`."""

    def __init__(
        self,
        trie: Trie,
        token_ids: np.ndarray,
        prompt_length: int,
        eos_token_id: int | None,
        filters: Sequence[Filter | None] | None = None,
        outside: Literal["raise", "end"] = "raise",
        mode: Mode = "item",
        separator: Sequence[int] = (),
        mention: int | None = None,
        max_new_tokens: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """Set where answers begin, and what they may contain.

        Args:
            token_ids: (n_symbols,) the model's token of each symbol.
            prompt_length: column of `input_ids` where the answer begins (prompts padded on the left).
            eos_token_id: the one token allowed after an item; None if generation always stops at the item's last token.
            filters: one per prompt; beams or return sequences of a prompt share its filter.
            outside: what to do with a row whose answer begins no code: 'raise', or 'end' it. Use 'end' when num_beams
                exceeds the number of prefixes: `generate` then adds beams of probability 0.
            mode: see the module; `items` needs `separator`, `chat` needs `mention`.
            max_new_tokens: as passed to `generate`: lists and chats then begin no item that would be cut short.
            vocab_size: of the tokenizer, where the model has more rows: a chat then uses none of the others.
        """
        self.grammar = OutputGrammar(trie, token_ids, eos_token_id, separator, mention, vocab_size)
        self.prompt_length, self.outside, self.mode = prompt_length, outside, mode
        self.filters, self.max_new_tokens = filters, max_new_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) of the next token after `input_ids` (rows, length), -inf for what may not come.

        Raises:
            CodeError: an answer that begins no allowed code, or is finished though there is no end token.
            RequestError: the number of rows is not a multiple of the number of filters.
        """
        answers, rows = input_ids[:, self.prompt_length :].cpu().numpy(), np.arange(len(input_ids))
        left = None if self.max_new_tokens is None else np.full(len(rows), self.max_new_tokens - answers.shape[1])
        masked = scores.clone()
        stuck = mask_logits(masked, rows, answers, self._filters(len(rows)), self.grammar, self.mode, left)
        if self.outside == "raise" and stuck.any():
            row = int(np.argmax(stuck))
            raise CodeError(
                f"The answer of row {row} begins no allowed item: {answers[row].tolist()}. Set prompt_length to the "
                "column where answers begin, let the filter allow an item, or pass outside='end' if there are more "
                "beams than prefixes."
            )
        if self.grammar.end_token is None and (ended := self.grammar.parse(answers, self.mode).may_end).any():
            raise CodeError(
                f"Row {int(np.argmax(ended))} has a complete item and generation goes on: pass eos_token_id, or set "
                "max_new_tokens to the length of the codes."
            )
        return masked

    def _filters(self, rows: int) -> BatchFilters:
        filters = self.filters
        if filters is not None and (not len(filters) or rows % len(filters)):
            raise RequestError(
                f"{len(filters)} filters for {rows} rows: pass one per prompt, None where all is allowed."
            )
        repeated = filters and [each for each in filters for _ in range(rows // len(filters))]
        return BatchFilters(self.grammar.trie, repeated, rows)
