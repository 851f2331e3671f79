"""Item processor for a vLLM server with the model runner V1: on CPUs, and on GPUs with VLLM_USE_V2_MODEL_RUNNER=0.

    LLMREC_CATALOGUE=runs/NAME/catalogue python -m vllm.entrypoints.openai.api_server \
        --model runs/NAME/train-1-sft/model --logprobs-mode processed_logprobs \
        --logits-processors llmrec.decode.vllm_processor_v1:ItemProcessorV1

Parameters of requests are in `vllm_request.py`; the runner V2 needs `vllm_processor_v2.py` instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from llmrec.decode.filters import BatchFilters, Filter
from llmrec.decode.grammar import OUTSIDE, PAD, Mode, OutputGrammar
from llmrec.decode.vllm_request import ProcessorContext, mask_and_log, validate_params

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class ItemRow(NamedTuple):
    """A row of the batch that asks for items.

    Attributes:
        in_prompt: tokens of its answer that are part of the prompt.
        output: tokens generated so far; vLLM's own list, which grows.
        max_tokens: tokens that may be generated.
        grammar: of its catalogue.
    """

    in_prompt: list[int]
    output: list[int]
    filter: Filter | None
    mode: Mode
    max_tokens: int
    grammar: OutputGrammar


class ItemProcessorV1(LogitsProcessor):
    """Allow only real items, in the requests that ask for items."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a bad request by a ValueError; see `vllm_request.validate_params`."""
        validate_params(sampling_params)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        """Load the catalogue of LLMREC_CATALOGUE; errors as in `ProcessorContext`."""
        self.context = ProcessorContext(vllm_config)
        self.window: int = vllm_config.model_config.max_model_len
        self.rows: dict[int, ItemRow] = {}
        self._groups: dict[tuple[Mode, OutputGrammar], tuple[np.ndarray, BatchFilters]] = {}

    def is_argmax_invariant(self) -> bool:
        """False: the most likely token is seldom an item's."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Update the rows that ask for items."""
        if process_dict_updates(self.rows, batch_update, self._row):
            keys = {(row.mode, row.grammar) for row in self.rows.values()}
            self._groups = {key: self._group(*key) for key in keys}

    def apply(self, logits: Tensor) -> Tensor:
        """Mask (batch, vocabulary) logits in place; rows that ask for no items are not changed."""
        for (mode, grammar), (indices, filters) in self._groups.items():
            rows = [self.rows[index] for index in indices.tolist()]
            tokens_left = np.array([row.max_tokens - len(row.output) for row in rows])
            mask_and_log(logits, indices, _answers(rows, mode, grammar), filters, grammar, mode, tokens_left)
        return logits

    def _group(self, mode: Mode, grammar: OutputGrammar) -> tuple[np.ndarray, BatchFilters]:
        """Indices and filters of the rows of one mode and catalogue, kept until the batch changes."""
        indices = sorted(n for n, row in self.rows.items() if row.mode == mode and row.grammar is grammar)
        filters = BatchFilters(grammar.trie, [self.rows[index].filter for index in indices], len(indices))
        return np.array(indices), filters

    def _row(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> ItemRow | None:
        parsed = self.context.parse_request(params.extra_args)
        if parsed is None:
            return None
        request, grammar = parsed
        length = 0 if prompt is None else len(prompt)
        max_tokens = min(params.max_tokens or self.window, self.window - length)
        in_prompt = [] if request.start is None or prompt is None else list(prompt[request.start :])
        if request.start is not None and request.start > length:  # an error here would stop the server
            in_prompt = [OUTSIDE]
        return ItemRow(in_prompt, output, request.filter, request.mode, max_tokens, grammar)


def _answers(rows: list[ItemRow], mode: Mode, grammar: OutputGrammar) -> np.ndarray:
    """(rows, length) tokens of each answer, as many as decide its state, padded by -1."""
    needed = grammar.tokens_needed(mode)
    part = slice(-needed, None) if mode == "chat" and needed else slice(needed)
    texts = [(row.in_prompt[part] + row.output[part])[part] for row in rows]
    answers = np.full((len(rows), max(map(len, texts))), PAD, np.int64)
    for row, tokens in enumerate(texts):
        answers[row, : len(tokens)] = tokens
    return answers
