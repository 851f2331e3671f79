"""The item trie as a transformers `LogitsProcessor`, for anybody's own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from llmrec.decode.filters import Filter, Filters
from llmrec.errors import CodeError, RequestError
from llmrec.indexing.trie import ROOT, Trie


class ItemProcessor(LogitsProcessor):
    """Lets only the codes of allowed items be generated, then only the end token.

    Nothing is remembered between calls: what is allowed follows from the tokens since `prompt_length`, so beams may be
    reordered. Use it as `generate(logits_processor=[ItemProcessor(...)])`.
    """

    def __init__(
        self,
        trie: Trie,
        token_ids: np.ndarray,
        prompt_length: int,
        eos_token_id: int | None,
        filters: Sequence[Filter | None] | None = None,
        outside: Literal["raise", "end"] = "raise",
    ) -> None:
        """Say where answers begin, and what may be in them.

        Args:
            token_ids: (n_symbols,) the model's token of each symbol.
            prompt_length: column of `input_ids` where the answer begins (prompts padded on the left).
            eos_token_id: the one token allowed after an item; None if generation always stops at the item's last token.
            filters: one a prompt; `generate`'s beams or return sequences of a prompt share its filter.
            outside: what to do with a row whose answer begins no code: 'raise', or 'end' it. Say 'end' when num_beams
                exceeds the prefixes there are: `generate` then fills up with beams of probability 0.
        """
        self.trie, self.prompt_length, self.eos, self.outside = trie, prompt_length, eos_token_id, outside
        self.filters = filters
        self.tokens = np.asarray(token_ids, np.int64)
        self.symbol_of = np.full(int(self.tokens.max()) + 2, -2, np.int64)  # -2 is no symbol, and not padding either
        self.symbol_of[self.tokens] = np.arange(len(self.tokens))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask what may not come next.

        Args:
            input_ids: (rows, length) tokens so far, prompts included.
            scores: (rows, vocabulary) of the next token.

        Returns:
            (rows, vocabulary) scores, -inf where not allowed; no row is all -inf.

        Raises:
            CodeError: an answer that begins no allowed code, or is finished though no end token was given.
            RequestError: rows that are not a multiple of the filters.
        """
        node, ended = self._walk(input_ids[:, self.prompt_length :].cpu().numpy())
        going = np.flatnonzero((node >= 0) & ~ended)
        source, symbol, child = self.trie.children(node[going])
        rows, columns = going[source], self.tokens[symbol]
        if self.filters is not None:
            keep = self._allowed(len(node), rows, child)
            rows, columns = rows[keep], columns[keep]
        lost = ~ended & (np.bincount(rows, minlength=len(node)) == 0)
        if self.outside == "raise" and lost.any():
            row = int(np.argmax(lost))
            raise CodeError(
                f"The answer of row {row} begins no allowed item: {input_ids[row, self.prompt_length :].tolist()}. "
                "Set prompt_length to the column where answers begin, let the filter allow an item, or say "
                "outside='end' if there are more beams than prefixes."
            )
        stopped = np.flatnonzero(ended | lost)
        rows = np.concatenate([rows, stopped])
        columns = np.concatenate([columns, np.full(len(stopped), self._end(stopped))])
        place = (torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device))
        masked = torch.full_like(scores, -torch.inf)
        masked[place] = scores[place]
        return masked

    def _walk(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows,) node, -1 outside the trie, and whether the item is finished (what follows is ignored)."""
        node, ended = np.full(len(answers), ROOT, np.int64), np.zeros(len(answers), bool)
        for tokens in answers.T:
            symbols = self.symbol_of[np.minimum(tokens, len(self.symbol_of) - 1)]
            node = np.where(ended, node, self.trie.child(node, symbols))
            ended |= (node >= 0) & self.trie.is_leaf(np.maximum(node, 0))
        return node, ended

    def _allowed(self, rows: int, row: np.ndarray, child: np.ndarray) -> np.ndarray:
        """(edges,) bool, whether each child has items that its row may be given."""
        assert self.filters is not None, "asked for rows without filters"
        if not len(self.filters) or rows % len(self.filters):
            raise RequestError(
                f"{len(self.filters)} filters for {rows} rows: pass one a prompt, None where all is allowed."
            )
        sieve = Filters(self.trie, self.filters, len(self.filters))
        return sieve.count(row // (rows // len(self.filters)), self.trie.start[child], self.trie.stop[child]) > 0

    def _end(self, stopped: np.ndarray) -> int:
        if self.eos is None and len(stopped):
            raise CodeError(
                f"Row {int(stopped[0])} has its whole item and generation goes on: give eos_token_id, or set "
                "max_new_tokens to the length of the codes."
            )
        return -1 if self.eos is None else self.eos
