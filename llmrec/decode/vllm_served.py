"""What a vLLM server lets through: its catalogues, checked against its model, and a mask that logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from llmrec.decode.answers import Answers, Mode, separator_tokens
from llmrec.decode.filters import Filters
from llmrec.decode.mask import mask
from llmrec.decode.vllm_request import VARIABLE, Asked, asked, named_catalogue, served_catalogue
from llmrec.errors import LlmrecError, ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.folder import read_note
from llmrec.model.loading import tokenizer_from
from llmrec.model.vocabulary import MENTION, token_ids

if TYPE_CHECKING:
    from vllm.config import VllmConfig

log = logging.getLogger("vllm.llmrec")  # below vLLM's own logger, which a server has set up
_KEPT = 4  # readers beside the first; rows in flight hold their own
_NOWHERE = 2**40  # an answer that begins past any prompt: it may only end


class Served:
    """How to read the answers of the model that vLLM serves, by any catalogue that a request names.

    Attributes:
        first: reads by the catalogue that the server was started for.
    """

    def __init__(self, config: VllmConfig) -> None:
        """Check the model and its catalogue.

        Raises:
            CodeError: no catalogue was named, or it is not intact.
            ModelError: the model is no folder of llmrec, was trained on another catalogue, has no end token, or drafts
                several tokens at once (speculative decoding).
        """
        catalogue, folder = served_catalogue(), Path(config.model_config.model)
        _check(config, catalogue, folder)
        self._tokenizer = tokenizer_from(config.model_config.tokenizer)
        if self._tokenizer.eos_token_id is None:
            raise ModelError(f"The tokenizer of {folder} has no end token, so an answer could not end: give it one.")
        self._separator = separator_tokens(self._tokenizer, catalogue.tokens[0])
        self.first = self._new(catalogue)
        self._readers = {catalogue.hash: self.first}

    def asked(self, extra_args: Mapping[str, Any] | None) -> tuple[Asked, Answers] | None:
        """What an admitted request asks, and the reader of its answer; None where it asks for no items.

        A catalogue that was taken off the shelf since is logged and its answer ended, since raising would end the
        server.
        """
        if "items" not in (extra_args or {}):
            return None
        try:
            catalogue = named_catalogue(extra_args)
            wanted = asked(extra_args, catalogue)
            return None if wanted is None else (wanted, self._reader(catalogue))
        except LlmrecError as error:
            log.error("an admitted request is ended without an item: %s", error)
            return Asked(_NOWHERE, None), self.first

    def _reader(self, catalogue: Catalogue) -> Answers:
        if catalogue.hash not in self._readers:
            self._readers[catalogue.hash] = self._new(catalogue)
            for stale in list(self._readers)[1:-_KEPT]:
                del self._readers[stale]
        return self._readers[catalogue.hash]

    def _new(self, catalogue: Catalogue) -> Answers:
        known = self._tokenizer.get_vocab()
        tokens = token_ids(self._tokenizer, catalogue.tokens)
        end, words = self._tokenizer.eos_token_id, max(known.values()) + 1
        return Answers(catalogue.trie, tokens, end, self._separator, known.get(MENTION), words)


def _check(config: VllmConfig, catalogue: Catalogue, folder: Path) -> None:
    trained_on = read_note(folder).catalogue
    if trained_on != catalogue.hash:
        raise ModelError(
            f"{folder} was trained on the catalogue {trained_on[:12]}…, but {VARIABLE} names "
            f"{catalogue.hash[:12]}…: name the catalogue folder of the model's own run."
        )
    if config.speculative_config is not None:
        raise ModelError("The item processor cannot check drafted tokens: start vLLM without speculative decoding.")


def mask_and_log(
    logits: Tensor,
    rows: np.ndarray,
    answers: np.ndarray,
    filters: Filters,
    reader: Answers,
    mode: Mode,
    room: np.ndarray,
) -> None:
    """As `mask.mask`; answers that begin no allowed item are ended, and logged."""
    lost = mask(logits, rows, answers, filters, reader, mode, room)
    if lost.any():
        log.warning(
            "%d answers begin no allowed item and are ended; the first is %s. Is answer_start right?",
            int(lost.sum()),
            answers[np.argmax(lost)].tolist(),
        )
