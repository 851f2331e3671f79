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

from llmrec.decode.answers import OUTSIDE, PAD, Answers, Mode
from llmrec.decode.filters import Filter, Filters
from llmrec.decode.vllm_request import Served, check, mask_and_log

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class Row(NamedTuple):
    """A row of the batch that asks for items.

    Attributes:
        begun: tokens of its answer that stand in the prompt.
        output: tokens generated so far; vLLM's own list, which grows.
        limit: tokens that may be generated.
        reader: reads its answer, by its own catalogue.
    """

    begun: list[int]
    output: list[int]
    filter: Filter | None
    mode: Mode
    limit: int
    reader: Answers


class ItemLogitsProcessor(LogitsProcessor):
    """Real items only, for the requests that ask for items."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a bad request at admission, by a ValueError; see `vllm_request.check`."""
        check(sampling_params)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        """Open the catalogue that LLMREC_CATALOGUE names and check it against the model; errors as in `Served`."""
        self.served = Served(vllm_config)
        self.window: int = vllm_config.model_config.max_model_len
        self.rows: dict[int, Row] = {}
        self._compiled: dict[tuple[Mode, Answers], tuple[np.ndarray, Filters]] = {}

    def is_argmax_invariant(self) -> bool:
        """False: the likeliest token of all is seldom an item's."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow which rows of the batch ask for items."""
        if process_dict_updates(self.rows, batch_update, self._row):
            kinds = {(row.mode, row.reader) for row in self.rows.values()}
            self._compiled = {kind: self._compile(*kind) for kind in kinds}

    def apply(self, logits: Tensor) -> Tensor:
        """Mask (batch, vocabulary) logits in place; rows that ask for no items are left alone."""
        for (mode, reader), (order, filters) in self._compiled.items():
            rows = [self.rows[row] for row in order.tolist()]
            room = np.array([row.limit - len(row.output) for row in rows])
            mask_and_log(logits, order, _answers(rows, mode, reader), filters, reader, mode, room)
        return logits

    def _compile(self, mode: Mode, reader: Answers) -> tuple[np.ndarray, Filters]:
        """The rows of one kind and catalogue, and their filters, kept while the batch stays the same."""
        order = np.array(sorted(n for n, row in self.rows.items() if row.mode == mode and row.reader is reader))
        return order, Filters(reader.trie, [self.rows[row].filter for row in order.tolist()], len(order))

    def _row(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> Row | None:
        found = self.served.asked(params.extra_args)
        if found is None:
            return None
        wanted, reader = found
        length = 0 if prompt is None else len(prompt)
        limit = min(params.max_tokens or self.window, self.window - length)
        begun = [] if wanted.start is None or prompt is None else list(prompt[wanted.start :])
        if wanted.start is not None and wanted.start > length:  # seen only here, where raising would end the server
            begun = [OUTSIDE]
        return Row(begun, output, wanted.filter, wanted.mode, limit, reader)


def _answers(rows: list[Row], mode: Mode, reader: Answers) -> np.ndarray:
    """(rows, length) tokens since each answer began, as many as tell where it stands, padded by -1."""
    reach = reader.reach(mode)
    part = slice(-reach, None) if mode == "chat" and reach else slice(reach)
    texts = [(row.begun[part] + row.output[part])[part] for row in rows]
    answers = np.full((len(rows), max(map(len, texts))), PAD, np.int64)
    for place, tokens in enumerate(texts):
        answers[place, : len(tokens)] = tokens
    return answers
