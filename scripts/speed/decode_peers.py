"""What others do, to be timed beside ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.errors import LlmrecError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie

Rank = Callable[[Sequence[Sequence[int]], int], Any]


def following(catalogue: Catalogue, tokens: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    """Tokens that may follow each prefix, as a dictionary."""
    found: dict[tuple[int, ...], set[int]] = {}
    for code in tokens[catalogue.codes].tolist():
        for length in range(len(code)):
            found.setdefault(tuple(code[:length]), set()).add(code[length])
    return {prefix: sorted(some) for prefix, some in found.items()}


def dictionary_generate(model: Any, catalogue: Catalogue, tokens: np.ndarray) -> Rank:
    """`generate(num_beams=K, prefix_allowed_tokens_fn=…)` over a dictionary of prefixes: what the field does."""
    allowed, depth = following(catalogue, tokens), catalogue.trie.depth

    def rank(prompts: Sequence[Sequence[int]], k: int) -> Any:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        inside = torch.arange(longest) >= torch.tensor([[longest - len(prompt)] for prompt in prompts])
        with torch.inference_mode():
            return model.generate(
                ids.to(model.device),
                attention_mask=inside.long().to(model.device),
                num_beams=k,
                num_return_sequences=k,
                max_new_tokens=depth,
                do_sample=False,
                eos_token_id=None,
                prefix_allowed_tokens_fn=lambda _, row: allowed[tuple(row[longest:].tolist())],
            )

    return rank


def vllm_beam_search(llm: Any, catalogue: Catalogue) -> Rank:
    """vLLM's own beam search, held to the catalogue by its structured outputs: a grammar of all codes."""
    from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams
    from vllm.v1.structured_output.utils import choice_as_grammar

    choice = StructuredOutputsParams(grammar=choice_as_grammar(catalogue.code_texts))

    def rank(prompts: Sequence[Sequence[int]], k: int) -> Any:
        params = BeamSearchParams(beam_width=k, max_tokens=catalogue.trie.depth, structured_outputs=choice)
        return llm.beam_search([{"prompt_token_ids": list(prompt)} for prompt in prompts], params)

    return rank


class Static:
    """STATIC's sparse step in PyTorch, from a checkout of youtube/static-constraint-decoding that the user brings."""

    def __init__(self, checkout: Path, trie: Trie, width: int) -> None:
        """Build its index over the codes of a trie.

        Args:
            width: symbols are local to a level, 0..width - 1.

        Raises:
            LlmrecError: not such a checkout.
        """
        if not (checkout / "static_decoding" / "decoding_pt.py").is_file():
            raise LlmrecError(f"{checkout} is no checkout of youtube/static-constraint-decoding.")
        sys.path.insert(0, str(checkout))
        from static_decoding.csr_utils import build_static_index  # type: ignore[import-not-found]
        from static_decoding.decoding_pt import generate_and_apply_logprobs_mask  # type: ignore[import-not-found]

        self.kernel = generate_and_apply_logprobs_mask
        codes = trie.code(trie.order).astype(np.int32) % width
        packed, starts, self.branches, *_ = build_static_index(codes, width, 2)
        self.packed = torch.tensor(packed, dtype=torch.int32)
        self.starts, self.width = torch.tensor(starts, dtype=torch.long), width
        self.codes = codes

    def states(self, level: int, positions: np.ndarray) -> Tensor:
        """Its state of the prefix of so many symbols of the codes at some sorted positions; level is at least 2."""
        fresh = np.any(self.codes[1:, :level] != self.codes[:-1, :level], axis=1)
        number = np.concatenate([[0], np.cumsum(fresh)])
        before = self.width + 1
        for shorter in range(2, level):
            before += 1 + int(np.any(self.codes[1:, :shorter] != self.codes[:-1, :shorter], axis=1).sum())
        return torch.from_numpy(number[positions] + before)

    def step(self, logits: Tensor, states: Tensor, level: int, scores: Tensor, rows: int, beams: int) -> Tensor:
        """Scores of the best `beams` continuations of each row: log-softmax, its kernel, top k."""
        found, tokens, after = self.kernel(
            logits.log_softmax(-1), states, self.packed, self.starts, self.branches[level], self.width, logits.device
        )
        total = (scores[:, None] + found).view(rows, -1)
        top, best = total.topk(beams, dim=-1)
        tokens.view(rows, -1).gather(1, best)
        after.view(rows, -1).gather(1, best)
        return top
