"""Engines: prompts in, ranked items out. One runs on transformers here; the other, on vLLM, is in `vllm_engine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel

from llmrec.decode.exact import score_all
from llmrec.decode.filters import Filter
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import Ranked, beam_search
from llmrec.indexing.trie import Trie


class Engine(Protocol):
    """What a recommender needs of a model."""

    def rank(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[Filter | None] | None = None,
        beams: int | None = None,
    ) -> Ranked:
        """The k best items after each prompt of token ids; see `search.beam_search`."""

    def score(self, prompts: Sequence[Sequence[int]], filters: Sequence[Filter | None] | None = None) -> np.ndarray:
        """(rows, items) float32 log-probability of every item; see `exact.score_all`."""


class TransformersEngine:
    """A model of transformers in this process, on CPU or GPU; its weights may go on changing."""

    def __init__(self, model: PreTrainedModel, trie: Trie, tokens: np.ndarray) -> None:
        """Use a model.

        Args:
            tokens: (n_symbols,) the model's token of each symbol of the trie.

        Raises:
            ModelError: see `Scorer`.
        """
        self.scorer, self.trie, self.tokens = Scorer(model), trie, tokens

    def rank(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[Filter | None] | None = None,
        beams: int | None = None,
    ) -> Ranked:
        """See `search.beam_search`."""
        return beam_search(self.scorer, self.trie, self.tokens, prompts, k, beams, filters)

    def score(self, prompts: Sequence[Sequence[int]], filters: Sequence[Filter | None] | None = None) -> np.ndarray:
        """See `exact.score_all`."""
        return score_all(self.scorer, self.trie, self.tokens, prompts, filters=filters)
