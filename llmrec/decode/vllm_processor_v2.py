"""Item processor for a vLLM server with the model runner V2, the newest on GPUs.

Not yet run on a GPU: tested against the interface of vLLM 0.32 with tensors on the CPU. A step copies a few tokens per
row to the host, which waits for the device; a trie on the device would avoid that.

    --logits-processors llmrec.decode.vllm_processor_v2:ItemProcessorV2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from llmrec.decode.filters import BatchFilters
from llmrec.decode.grammar import OUTSIDE, PAD, Mode, OutputGrammar
from llmrec.decode.vllm_request import ItemRequest, ProcessorContext, mask_and_log, validate_params

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class ItemProcessorV2(LogitsProcessor):
    """Allow only real items, in the requests that ask for items. Slots are recycled: `add_request` resets one."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a bad request by a ValueError; see `vllm_request.validate_params`."""
        validate_params(sampling_params)

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        """Load the catalogue of LLMREC_CATALOGUE; errors as in `ProcessorContext`."""
        self.context = ProcessorContext(vllm_config)
        self.states = req_states
        self.requests: list[tuple[ItemRequest, OutputGrammar] | None] = [None] * req_states.max_num_reqs
        self.max_tokens = np.zeros(req_states.max_num_reqs, np.int64)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Assign a request to a slot; True if it asks for items."""
        self.requests[req_idx] = parsed = self.context.parse_request(sampling_params.extra_args)
        self.max_tokens[req_idx] = sampling_params.max_tokens or self._window()
        return parsed is not None

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Mask (rows, vocabulary) logits in place; rows that ask for no items are not changed."""
        slots = ctx.idx_mapping_np  # one row per request, in this order, since nothing is drafted
        groups = [parsed and (parsed[0].mode, parsed[1]) for parsed in map(self.requests.__getitem__, slots.tolist())]
        for group in {each for each in groups if each}:
            rows = np.array([row for row, each in enumerate(groups) if each == group])
            self._mask(logits, rows, slots[rows], *group, ctx)
        return logits

    def _mask(
        self,
        logits: Tensor,
        rows: np.ndarray,
        slots: np.ndarray,
        mode: Mode,
        grammar: OutputGrammar,
        ctx: LogitsContext,
    ) -> None:
        """Mask the rows of one mode and catalogue."""
        requests = [parsed[0] for slot in slots.tolist() if (parsed := self.requests[slot])]
        prompt = self.states.prompt_len.np[slots].astype(np.int64)
        length = ctx.seq_lens_upper_bound_np[rows].astype(np.int64)  # exact, since nothing is drafted
        start = np.array([end if r.start is None else r.start for r, end in zip(requests, prompt, strict=True)])
        answers = self._answers(slots, start, length, mode, grammar)
        answers[start > prompt] = OUTSIDE
        tokens_left = np.minimum(self.max_tokens[slots], self._window() - prompt) - (length - prompt)
        filters = BatchFilters(grammar.trie, [request.filter for request in requests], len(requests))
        mask_and_log(logits, rows, answers, filters, grammar, mode, tokens_left)

    def _answers(
        self, slots: np.ndarray, start: np.ndarray, length: np.ndarray, mode: Mode, grammar: OutputGrammar
    ) -> np.ndarray:
        """(rows, tokens) tokens of each answer, as many as decide its state, padded by -1."""
        needed = grammar.tokens_needed(mode)
        first = np.maximum(start, length - needed) if mode == "chat" and needed else start
        position = first[:, None] + np.arange(needed or max(1, int((length - start).max())))
        table = self.states.all_token_ids.gpu
        slot, column = (torch.from_numpy(index).to(table.device) for index in (slots.astype(np.int64), position))
        tokens = table[slot[:, None], column.clamp(max=table.shape[1] - 1)].long().cpu().numpy()
        return np.where(position < length[:, None], tokens, PAD)

    def _window(self) -> int:
        return int(self.states.all_token_ids.gpu.shape[1])
