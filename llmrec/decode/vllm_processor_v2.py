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

from llmrec.decode.answers import OUTSIDE, PAD, Answers, Mode
from llmrec.decode.filters import Filters
from llmrec.decode.vllm_request import Asked, Served, check, mask_and_log

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class ItemLogitsProcessor(LogitsProcessor):
    """Real items only, for the requests that ask for items. Slots are recycled: `add_request` rewrites all of one."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a bad request at admission, by a ValueError; see `vllm_request.check`."""
        check(sampling_params)

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        """Open the catalogue that LLMREC_CATALOGUE names and check it against the model; errors as in `Served`."""
        self.served = Served(vllm_config)
        self.states = req_states
        self.asked: list[tuple[Asked, Answers] | None] = [None] * req_states.max_num_reqs
        self.limit = np.zeros(req_states.max_num_reqs, np.int64)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take over a slot; True if its request asks for items."""
        self.asked[req_idx] = wanted = self.served.asked(sampling_params.extra_args)
        self.limit[req_idx] = sampling_params.max_tokens or self._window()
        return wanted is not None

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Mask (rows, vocabulary) logits in place; rows that ask for no items are left alone."""
        slots = ctx.idx_mapping_np  # one row a request, in this order, since nothing is drafted
        kinds = [one and (one[0].mode, one[1]) for one in map(self.asked.__getitem__, slots.tolist())]
        for kind in {one for one in kinds if one}:
            rows = np.array([row for row, one in enumerate(kinds) if one == kind])
            self._mask(logits, rows, slots[rows], *kind, ctx)
        return logits

    def _mask(
        self, logits: Tensor, rows: np.ndarray, slots: np.ndarray, mode: Mode, reader: Answers, ctx: LogitsContext
    ) -> None:
        """Mask the rows of one kind of answer and one catalogue."""
        wanted = [one[0] for slot in slots.tolist() if (one := self.asked[slot])]
        prompt = self.states.prompt_len.np[slots].astype(np.int64)
        known = ctx.seq_lens_upper_bound_np[rows].astype(np.int64)  # exact, since nothing is drafted
        start = np.array(
            [length if one.start is None else one.start for one, length in zip(wanted, prompt, strict=True)]
        )
        answers = self._answers(slots, start, known, mode, reader)
        answers[start > prompt] = OUTSIDE
        room = np.minimum(self.limit[slots], self._window() - prompt) - (known - prompt)
        filters = Filters(reader.trie, [one.filter for one in wanted], len(wanted))
        mask_and_log(logits, rows, answers, filters, reader, mode, room)

    def _answers(
        self, slots: np.ndarray, start: np.ndarray, known: np.ndarray, mode: Mode, reader: Answers
    ) -> np.ndarray:
        """(rows, length) tokens since each answer began, as many as tell where it stands, padded by -1."""
        reach = reader.reach(mode)
        first = np.maximum(start, known - reach) if mode == "chat" and reach else start
        place = first[:, None] + np.arange(reach or max(1, int((known - start).max())))
        tokens = self.states.all_token_ids.gpu
        slot, column = (torch.from_numpy(part).to(tokens.device) for part in (slots.astype(np.int64), place))
        found = tokens[slot[:, None], column.clamp(max=tokens.shape[1] - 1)].long().cpu().numpy()
        return np.where(place < known[:, None], found, PAD)

    def _window(self) -> int:
        return int(self.states.all_token_ids.gpu.shape[1])
