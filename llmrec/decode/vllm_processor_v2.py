"""The item trie in a vLLM server whose model runner is V2, the newest on GPUs.

Not yet run on a GPU: it is tested against the interface of vLLM 0.32 with tensors on the CPU. The step brings a few
tokens a row to the host, which waits for the device; a trie held on the device would spare that.

    --logits-processors llmrec.decode.vllm_processor_v2:ItemLogitsProcessor
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from llmrec.decode.filters import Filter
from llmrec.decode.vllm_mask import OUTSIDE, ItemMask
from llmrec.decode.vllm_request import asked, check

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class ItemLogitsProcessor(LogitsProcessor):
    """Real items only, for the requests that ask for items. Slots are recycled: `add_request` rewrites all of one."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a bad request at admission.

        Raises:
            ValueError: see `vllm_request.check`.
        """
        check(sampling_params)

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        """Open the catalogue that LLMREC_CATALOGUE names and check it against the model.

        Raises:
            CodeError, ModelError: see `ItemMask.served`.
        """
        self.mask, self.catalogue = ItemMask.served(vllm_config)
        self.states = req_states
        self.asks = np.zeros(req_states.max_num_reqs, bool)
        self.start = np.full(req_states.max_num_reqs, -1, np.int64)  # -1: where the prompt ends
        self.filters: list[Filter | None] = [None] * req_states.max_num_reqs

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take over a slot; True if its request asks for items."""
        wanted = asked(sampling_params.extra_args, self.catalogue)
        self.asks[req_idx] = wanted is not None
        self.start[req_idx] = -1 if wanted is None or wanted.start is None else wanted.start
        self.filters[req_idx] = None if wanted is None else wanted.filter
        return wanted is not None

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Mask (rows, vocabulary) logits in place; rows that ask for no items are left alone."""
        slots = ctx.idx_mapping_np  # one row a request, in this order, since nothing is drafted
        rows = np.flatnonzero(self.asks[slots])
        if not len(rows):
            return logits
        slots = slots[rows]
        answers = self._answers(rows, slots, ctx)
        return self.mask.apply(logits, rows, answers, self.mask.compile([self.filters[slot] for slot in slots]))

    def _answers(self, rows: np.ndarray, slots: np.ndarray, ctx: LogitsContext) -> np.ndarray:
        """(rows, depth) tokens since each answer began, padded by -1."""
        prompt = self.states.prompt_len.np[slots].astype(np.int64)
        start = np.where(self.start[slots] < 0, prompt, self.start[slots])
        tokens, device = self.states.all_token_ids.gpu, ctx.pos.device
        place = torch.from_numpy(start[:, None] + np.arange(self.mask.trie.depth)).to(device)
        known = ctx.pos[torch.from_numpy(rows).to(device), None] + 1
        slot = torch.from_numpy(slots.astype(np.int64)).to(device)
        found = tokens[slot[:, None], place.clamp(max=tokens.shape[1] - 1)].long()
        answers = torch.where(place < known, found, -1).cpu().numpy()
        answers[start > prompt] = OUTSIDE
        return answers
