"""One step of constrained decoding over a batch of a vLLM server: which tokens each row may go on with.

What is allowed is a function of a row's answer so far, its tokens since the answer began. Nothing is remembered from
one step to the next, so a server may preempt rows, resume them and recycle their slots.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from llmrec.decode.filters import Filter, Filters
from llmrec.decode.vllm_request import VARIABLE, served_catalogue
from llmrec.errors import ModelError
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import ROOT, Trie
from llmrec.model.folder import NOTE
from llmrec.model.vocabulary import token_ids

if TYPE_CHECKING:
    from vllm.config import VllmConfig

OUTSIDE = -2  # a token that is no symbol; -1 pads
log = logging.getLogger("vllm.llmrec")  # below vLLM's own logger, which a server has set up


class ItemMask:
    """Lets only the codes of allowed items through, and then only the end token."""

    def __init__(self, trie: Trie, tokens: np.ndarray, end: int) -> None:
        """Say what the symbols are.

        Args:
            tokens: (n_symbols,) the model's token of each symbol.
            end: the one token allowed after an item.
        """
        self.trie, self.tokens, self.end = trie, np.asarray(tokens, np.int64), end
        self.symbol_of = np.full(int(self.tokens.max()) + 2, OUTSIDE, np.int64)
        self.symbol_of[self.tokens] = np.arange(len(self.tokens))

    @classmethod
    def served(cls, config: VllmConfig) -> tuple[ItemMask, Catalogue]:
        """The mask for the model that vLLM serves, and its catalogue.

        Raises:
            CodeError: no catalogue was named, or it is not intact.
            ModelError: the model is no folder of llmrec, was trained on another catalogue, has no end token, or drafts
                several tokens at once (speculative decoding).
        """
        catalogue, folder = served_catalogue(), Path(config.model_config.model)
        if not (folder / NOTE).is_file():
            raise ModelError(f"{folder} is not a model folder of llmrec: it has no {NOTE}. Serve a run's model folder.")
        trained_on = read_json(folder / NOTE)["catalogue"]
        if trained_on != catalogue.hash:
            raise ModelError(
                f"{folder} was trained on the catalogue {trained_on[:12]}…, but {VARIABLE} names "
                f"{catalogue.hash[:12]}…: name the catalogue folder of the model's own run."
            )
        if config.speculative_config is not None:
            raise ModelError("The item processor cannot check drafted tokens: start vLLM without speculative decoding.")
        tokenizer = AutoTokenizer.from_pretrained(config.model_config.tokenizer)
        if tokenizer.eos_token_id is None:
            raise ModelError(f"The tokenizer of {folder} has no end token, so an answer could not end: give it one.")
        return cls(catalogue.trie, token_ids(tokenizer, catalogue.tokens), tokenizer.eos_token_id), catalogue

    def apply(self, logits: Tensor, rows: np.ndarray, answers: np.ndarray, filters: Filters) -> Tensor:
        """Mask, in place, what may not come next.

        Args:
            logits: (batch, vocabulary), on any device.
            rows: (n,) the rows that ask for items; others are left alone.
            answers: (n, length) the first tokens of each answer, padded at the end by -1; `depth` of them suffice.
            filters: of these n rows.

        Returns:
            the same logits, -inf where not allowed. A row that begins no allowed item may only end, and is logged.
        """
        node, ended = self._walk(answers)
        going = np.flatnonzero((node >= 0) & ~ended)
        source, symbol, child = self.trie.children(node[going])
        if filters.any:
            keep = filters.keep(going, node[going], source, child)
            source, symbol = source[keep], symbol[keep]
        lost = ~ended & (np.bincount(going[source], minlength=len(rows)) == 0)
        if lost.any():
            log.warning(
                "%d answers begin no allowed item and are ended; the first is %s. Is answer_start right?",
                int(lost.sum()),
                answers[np.argmax(lost)].tolist(),
            )
        stop = rows[ended | lost]
        row = torch.from_numpy(np.concatenate([rows[going][source], stop])).to(logits.device)
        token = torch.from_numpy(np.concatenate([self.tokens[symbol], np.full(len(stop), self.end)])).to(logits.device)
        kept = logits[row, token]
        if len(rows) == len(logits):
            logits.fill_(-torch.inf)
        else:
            logits.index_fill_(0, torch.from_numpy(rows).to(logits.device), -torch.inf)
        logits[row, token] = kept
        return logits

    def compile(self, filters: Sequence[Filter | None]) -> Filters:
        """Filters of a batch, to be kept while the batch stays the same."""
        return Filters(self.trie, filters, len(filters))

    def _walk(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) node, -1 outside the trie, and whether the item is finished; what follows an item is ignored."""
        node, ended = np.full(len(answers), ROOT, np.int64), np.zeros(len(answers), bool)
        for tokens in answers.T:
            symbols = np.where(tokens < 0, OUTSIDE, self.symbol_of[np.clip(tokens, 0, len(self.symbol_of) - 1)])
            node = np.where(ended | (tokens == -1), node, self.trie.child(node, symbols))
            ended |= (node >= 0) & self.trie.is_leaf(np.maximum(node, 0))
        return node, ended
