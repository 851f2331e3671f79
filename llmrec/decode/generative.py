"""The generative recommender: a language model generates the code of the next item, constrained to the catalogue.

`Generative` turns requests into prompts and filters; an engine ranks prompts: on transformers here, on vLLM in
`vllm_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec import resources
from llmrec.contracts import ItemSet, Ranked, Recommender, Request, check_k
from llmrec.decode.exact import score_all
from llmrec.decode.filters import Filter, FilterList, Subset
from llmrec.decode.scorer import Scorer, check_length
from llmrec.decode.search import beam_search
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.items.item_text import plain_text
from llmrec.model import folder as model_folder
from llmrec.model.folder import ModelMeta
from llmrec.model.prompting import encode_prompt
from llmrec.model.vocabulary import token_ids
from llmrec.tasks.templates import SlotValue, fill, sanitize

EngineName = Literal["transformers", "vllm"]
BEAMS = 50  # default number of beams; narrow beams miss items


class Engine(Protocol):
    """Interface of a model for a generative recommender."""

    def check(self, prompt: Sequence[int]) -> None:
        """Raise a RequestError if prompt and answer exceed the model's window."""

    def rank(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList = None, beams: int | None = None
    ) -> Ranked:
        """The k best items after each prompt of token ids; see `search.beam_search`."""

    def score(self, prompts: Sequence[Sequence[int]], filters: FilterList = None) -> np.ndarray:
        """(rows, items) float32 log-probability of every item; see `exact.score_all`."""


class TransformersEngine(Engine):
    """A model of transformers in this process, on CPU or GPU; its weights may change between calls."""

    def __init__(self, model: PreTrainedModel, trie: Trie, tokens: np.ndarray) -> None:
        """Use a model; `tokens` (n_symbols,) are its tokens of the trie's symbols. Errors as in `Scorer`."""
        self.scorer, self.trie, self.tokens = Scorer(model), trie, tokens

    def check(self, prompt: Sequence[int]) -> None:
        check_length(len(prompt), self.trie.depth, self.scorer.max_length)

    def rank(
        self, prompts: Sequence[Sequence[int]], k: int, filters: FilterList = None, beams: int | None = None
    ) -> Ranked:
        return beam_search(self.scorer, self.trie, self.tokens, prompts, k, beams, filters)

    def score(self, prompts: Sequence[Sequence[int]], filters: FilterList = None) -> np.ndarray:
        return score_all(self.scorer, self.trie, self.tokens, prompts, filters=filters)


EngineFactory = Callable[[Catalogue, Path, np.ndarray], Engine]
"""(catalogue, its folder, (n_symbols,) the model's token of each symbol) → an engine of a loaded model."""


def transformers_engine_factory(folder: Path) -> EngineFactory:
    """Load a model folder; engines of several catalogues share its weights."""
    model = model_folder.load_model(folder)
    return lambda catalogue, _, tokens: TransformersEngine(model, catalogue.trie, tokens)


def engine_factory(name: EngineName, folder: Path, **options: Any) -> EngineFactory:
    """Engines of a model folder in this process.

    Args:
        name: transformers, which loads the model now; or vllm, which takes half a minute to start for each catalogue.
        options: arguments of `vllm.LLM`.

    Raises:
        ModelError: the model cannot be loaded.
        ExtraError: vLLM is not installed.
    """
    if name == "transformers":
        return transformers_engine_factory(folder)
    resources.require_extras("serve")
    from llmrec.decode.vllm_engine import VllmEngine

    return lambda catalogue, catalogue_folder, _: VllmEngine.open(folder, catalogue_folder, **options)


def parse_engine(name: str) -> EngineName:
    """Check an engine's name; a RequestError if there is no such engine."""
    if name not in get_args(EngineName):
        raise RequestError(f"there is no engine '{name}': use transformers or vllm.")
    return cast(EngineName, name)


class Generative(Recommender):
    """A language model over a catalogue.

    Attributes:
        meta: prompts and settings of training.
        beams: of a search; at least k are kept.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        meta: ModelMeta,
        catalogue: Catalogue,
        engine: Engine,
        beams: int | None = None,
    ) -> None:
        """Use a loaded model; `GenerativeModel` loads one from a folder. `BEAMS` beams if None."""
        self.tokenizer, self.meta, self.catalogue, self.engine = tokenizer, meta, catalogue, engine
        self.beams = beams or BEAMS

    @property
    def n_items(self) -> int:
        return len(self.catalogue.codes)

    @property
    def reads(self) -> frozenset[str]:
        fields = {"history": True, "user": "{user}" in self.meta.prompt}
        fields["words"] = bool(self.meta.search or self.meta.search_history)
        return frozenset(name for name, is_read in fields.items() if is_read)

    @property
    def reads_items(self) -> int:
        return self.meta.history

    def check(self, request: Request) -> None:
        self.engine.check(self.prompt(request))

    def notes(self, request: Request) -> list[str]:
        notes = []
        if request.words and len(request.history) and not self.meta.search_history:
            notes.append("the model read the query alone: it was not trained to read one after a history")
        if "user" in self.reads and not request.user:
            notes.append("the model was trained with user ids, and the request has none")
        return notes

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """See `Recommender.rank`; items outside the beams are missed."""
        check_k(k, self.n_items)
        if not requests:
            return Ranked.empty(0, k)
        prompts, filters = [self.prompt(each) for each in requests], [self.filter(each) for each in requests]
        return self.engine.rank(prompts, k, filters, self.n_beams(k))

    def n_beams(self, k: int) -> int:
        """Beams of a search for k items: equal for all small k, so that requests can share batches."""
        return min(max(k, self.beams), self.n_items)

    def score(self, requests: Sequence[Request]) -> np.ndarray:
        """(rows, items) float32 log-probability of every item; a RequestError if the engine is vLLM."""
        return self.engine.score([self.prompt(each) for each in requests], [self.filter(each) for each in requests])

    def prompt(self, request: Request) -> list[int]:
        """Prompt tokens of a request: of its history, its words, or both."""
        codes, ids, meta = self.catalogue.code_texts, self.catalogue.item_ids, self.meta
        recent = [int(item) for item in request.history[-meta.history :]]
        pieces: dict[str, list[SlotValue]] = {"history": [(codes[item], "history", ids[item]) for item in recent]}
        pieces["user"] = [(sanitize(plain_text(request.user)), "user", "")]
        prompts = [meta.prompt]
        if request.words and "words" in self.reads:
            pieces["intention"] = [(sanitize(request.words), "intention", "")]
            prompts = [meta.search_history, meta.search] if recent else [meta.search, meta.search_history]
        return encode_prompt(self.tokenizer, fill(next(filter(None, prompts)), pieces)[0])

    def with_held_out_prompt(self) -> Generative | None:
        """The same model with a prompt template that training never saw; None if its task has none."""
        if self.meta.held_out_prompt == self.meta.prompt:
            return None
        meta = replace(self.meta, prompt=self.meta.held_out_prompt)
        return Generative(self.tokenizer, meta, self.catalogue, self.engine, self.beams)

    def filter(self, request: Request) -> Filter | None:
        """Filter of a request for the search; None if every item is allowed."""
        trie, allowed = self.catalogue.trie, request.allowed
        if allowed is None and not len(request.denied):
            return None
        if isinstance(allowed, ItemSet):
            derived, key = allowed.derived, self.catalogue.hash
            if key not in derived:
                derived[key] = Subset(trie, allowed.mask)
            allowed = derived[key]
        return Filter.of(trie, request.denied, allowed)


class GenerativeModel:
    """A model folder and its recommenders for any catalogue of its tokens, which share the weights."""

    def __init__(self, folder: Path, engines: EngineFactory, beams: int | None = None) -> None:
        """Load tokenizer and prompts of a model folder, whose model the engines run.

        Raises:
            ModelError: not a model folder, a damaged one, or a model that was not trained to recommend.
        """
        self.tokenizer, self.meta = model_folder.load_tokenizer(folder)
        if not self.meta.prompt:
            raise ModelError(f"the model in {folder} was trained to judge candidates, not to recommend.")
        self._engines, self._folder, self._beams = engines, folder, beams

    def for_catalogue(self, catalogue: Catalogue, folder: Path) -> Generative:
        """Recommender for the catalogue that the model was trained on, or one that extends it.

        Raises:
            ModelError: the model was trained on another catalogue, or lacks some of its tokens.
        """
        if self.meta.catalogue not in catalogue.lineage:
            raise ModelError(
                f"the model in {self._folder} was trained on the catalogue {self.meta.catalogue[:12]}…, not on "
                f"{catalogue.hash[:12]}…. Use the catalogue folder of its own run."
            )
        engine = self._engines(catalogue, folder, token_ids(self.tokenizer, catalogue.tokens))
        return Generative(self.tokenizer, self.meta, catalogue, engine, self._beams)
