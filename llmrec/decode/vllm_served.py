"""What a vLLM server lets through: its catalogue, checked against its model, and a mask that logs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from transformers import AutoTokenizer

from llmrec.decode.answers import Answers, Mode, separator_tokens
from llmrec.decode.filters import Filters
from llmrec.decode.mask import mask
from llmrec.decode.vllm_request import VARIABLE, served_catalogue
from llmrec.errors import ModelError
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.folder import NOTE
from llmrec.model.vocabulary import MENTION, token_ids

if TYPE_CHECKING:
    from vllm.config import VllmConfig

log = logging.getLogger("vllm.llmrec")  # below vLLM's own logger, which a server has set up


def served(config: VllmConfig) -> tuple[Answers, Catalogue]:
    """How to read the answers of the model that vLLM serves, and its catalogue.

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
    separator = separator_tokens(tokenizer, catalogue.tokens[0])
    mention = tokenizer.get_vocab().get(MENTION)
    tokens = token_ids(tokenizer, catalogue.tokens)
    return Answers(catalogue.trie, tokens, tokenizer.eos_token_id, separator, mention), catalogue


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
