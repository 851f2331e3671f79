"""Engines: prompts in, ranked items out. One runs on transformers here; the other, on vLLM, is in `vllm_engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel

from llmrec.contracts import Ranked
from llmrec.decode.exact import score_all
from llmrec.decode.filters import Filter
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.model import folder as model_folder


class Engine(Protocol):
    """What a generative recommender needs of a model."""

    def check(self, prompt: Sequence[int]) -> None:
        """Refuse a prompt that does not fit the model's window together with its answer.

        Raises:
            RequestError: it does not.
        """

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

    def check(self, prompt: Sequence[int]) -> None:
        """See `Engine.check`."""
        if len(prompt) + self.trie.depth > self.scorer.limit:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and its answer {self.trie.depth}, but the model's window is "
                f"{self.scorer.limit}: shorten the query."
            )

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


EngineFactory = Callable[[Catalogue, Path, np.ndarray], Engine]
"""(catalogue, its folder, (n_symbols,) the model's token of each symbol) → an engine; its model is loaded before."""


def transformers_engines(folder: Path) -> EngineFactory:
    """Load a model folder; the engines of all catalogues share its weights.

    Raises:
        ModelError: it cannot be loaded.
    """
    model = model_folder.load_model(folder)
    return lambda catalogue, _, tokens: TransformersEngine(model, catalogue.trie, tokens)
