"""The item trie in a vLLM server whose model runner is V1: on CPUs, and on GPUs with VLLM_USE_V2_MODEL_RUNNER=0.

    LLMREC_CATALOGUE=runs/NAME/catalogue python -m vllm.entrypoints.openai.api_server \
        --model runs/NAME/train-1-sft/model --logprobs-mode processed_logprobs \
        --logits-processors llmrec.decode.vllm_processor:ItemLogitsProcessor

What a request may say stands in `vllm_request.py`; the runner V2 takes `vllm_processor_v2.py` instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from llmrec.decode.filters import Filter, Filters
from llmrec.decode.vllm_mask import OUTSIDE, ItemMask
from llmrec.decode.vllm_request import asked, check

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class Row(NamedTuple):
    """A row of the batch that asks for an item.

    Attributes:
        begun: tokens of its answer that stand in the prompt.
        output: tokens generated so far; vLLM's own list, which grows.
        filter: what it may be given.
    """

    begun: list[int]
    output: list[int]
    filter: Filter | None


class ItemLogitsProcessor(LogitsProcessor):
    """Real items only, for the requests that ask for items."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a bad request at admission.

        Raises:
            ValueError: see `vllm_request.check`.
        """
        check(sampling_params)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        """Open the catalogue that LLMREC_CATALOGUE names and check it against the model.

        Raises:
            CodeError, ModelError: see `ItemMask.served`.
        """
        self.mask, self.catalogue = ItemMask.served(vllm_config)
        self.rows: dict[int, Row] = {}
        self._compiled: tuple[np.ndarray, Filters] | None = None

    def is_argmax_invariant(self) -> bool:
        """False: the likeliest token of all is seldom an item's."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow which rows of the batch ask for items."""
        if process_dict_updates(self.rows, batch_update, self._row):
            self._compiled = None

    def apply(self, logits: Tensor) -> Tensor:
        """Mask (batch, vocabulary) logits in place; rows that ask for no items are left alone."""
        if not self.rows:
            return logits
        if self._compiled is None:
            order = np.array(sorted(self.rows))
            self._compiled = order, self.mask.compile([self.rows[row].filter for row in order.tolist()])
        order, filters = self._compiled
        return self.mask.apply(logits, order, self._answers(order), filters)

    def _row(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> Row | None:
        wanted = asked(params.extra_args, self.catalogue)
        if wanted is None:
            return None
        start = wanted.start
        if start is None:
            return Row([], output, wanted.filter)
        if prompt is None or start > len(prompt):  # seen only here, where raising would end the whole server
            return Row([OUTSIDE], output, wanted.filter)
        return Row(list(prompt[start : start + self.mask.trie.depth]), output, wanted.filter)

    def _answers(self, order: np.ndarray) -> np.ndarray:
        """(rows, depth) tokens since each answer began, padded by -1."""
        answers = np.full((len(order), self.mask.trie.depth), -1, np.int64)
        for place, row in enumerate(order.tolist()):
            begun, output, _ = self.rows[row]
            tokens = (begun + output[: answers.shape[1]])[: answers.shape[1]]
            answers[place, : len(tokens)] = tokens
        return answers
