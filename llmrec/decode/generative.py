"""The generative recommender: a language model writes the code of the next item, and only codes of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec import extras
from llmrec.contracts import ItemSet, Ranked, Request, check_k
from llmrec.decode.engine import Engine, EngineFactory, transformers_engines
from llmrec.decode.filters import Filter, Subset
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.text import plain
from llmrec.model import folder as model_folder
from llmrec.model.folder import Note
from llmrec.model.prompting import encode
from llmrec.model.vocabulary import token_ids
from llmrec.tasks.templates import Piece, fill, neutral

EngineName = Literal["transformers", "vllm"]
BEAMS = 50  # prefixes that a search keeps; narrow beams lose items


class Generative:
    """Language model × codes × trie × engine; see `contracts.Recommender`.

    Attributes:
        catalogue: items and codes.
        note: prompts and settings that the model was trained with.
        engine: runs the model.
        beams: prefixes that a search keeps at each level; at least k are kept.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        note: Note,
        catalogue: Catalogue,
        engine: Engine,
        beams: int | None = None,
    ) -> None:
        """Put a recommender together; `GenerativeModel` loads one from a model folder.

        Args:
            beams: as a recipe has them if it says nothing, if None.

        Raises:
            ModelError: the model was trained on another catalogue.
        """
        _check_catalogue(note, catalogue, "the model")
        self.tokenizer, self.note, self.catalogue, self.engine = tokenizer, note, catalogue, engine
        self.beams = beams or BEAMS

    @property
    def n_items(self) -> int:
        """See `contracts.Recommender`."""
        return len(self.catalogue.codes)

    @property
    def reads(self) -> frozenset[str]:
        """See `contracts.Recommender`."""
        read = {"history": True, "user": "{user}" in self.note.prompt}
        read["words"] = bool(self.note.search or self.note.search_history)
        return frozenset(name for name, wanted in read.items() if wanted)

    @property
    def reads_items(self) -> int:
        """See `contracts.Recommender`."""
        return self.note.history

    def check(self, request: Request) -> None:
        """Refuse a request whose prompt and answer exceed the model's window."""
        self.engine.check(self.prompt(request))

    def notes(self, request: Request) -> list[str]:
        """See `contracts.Recommender`."""
        alone = request.words and len(request.history) and not self.note.search_history
        unknown = "user" in self.reads and not request.user
        return [
            *(["the model read the query alone: it was not trained to read one after a history"] if alone else []),
            *(["the model was trained with ids of users, and none is given"] if unknown else []),
        ]

    def rank(self, requests: Sequence[Request], k: int) -> Ranked:
        """See `contracts.Recommender`; items that the beams miss are missed."""
        check_k(k, self.n_items)
        if not requests:
            return Ranked.empty(0, k)
        prompts, filters = [self.prompt(one) for one in requests], [self.filter(one) for one in requests]
        return self.engine.rank(prompts, k, filters, self.width(k))

    def width(self, k: int) -> int:
        """Beams of a search for k items: the same for all small k, so that requests share batches."""
        return min(max(k, self.beams), self.n_items)

    def score(self, requests: Sequence[Request]) -> np.ndarray:
        """(rows, items) float32 log-probability of every item, by forward passes over the whole trie.

        Raises:
            RequestError: the engine is vLLM, which tells only the likeliest.
        """
        return self.engine.score([self.prompt(one) for one in requests], [self.filter(one) for one in requests])

    def prompt(self, request: Request) -> list[int]:
        """Tokens of the prompt for a request: for its history, for its words, or for both."""
        codes, ids, note = self.catalogue.code_texts, self.catalogue.item_ids, self.note
        recent = [int(item) for item in request.history[-note.history :]]
        pieces: dict[str, list[Piece]] = {"history": [(codes[item], "history", ids[item]) for item in recent]}
        pieces["user"] = [(neutral(plain(request.user)), "user", "")]
        prompts = [note.prompt]
        if request.words and "words" in self.reads:
            pieces["intention"] = [(neutral(request.words), "intention", "")]
            prompts = [note.search_history, note.search] if recent else [note.search, note.search_history]
        return encode(self.tokenizer, fill(next(filter(None, prompts)), pieces)[0])

    def with_held_out_prompt(self) -> Generative | None:
        """The same model, prompted with a template that training never saw; None if its task keeps none."""
        if self.note.held_out_prompt == self.note.prompt:
            return None
        note = replace(self.note, prompt=self.note.held_out_prompt)
        return Generative(self.tokenizer, note, self.catalogue, self.engine, self.beams)

    def filter(self, request: Request) -> Filter | None:
        """What a request may be given, as the search takes it."""
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
    """A model folder; `on` gives a recommender for any catalogue of its tokens, and all of these share its weights.

    Attributes:
        note: prompts and settings that the model was trained with.
    """

    def __init__(self, folder: Path, engines: EngineFactory) -> None:
        """Read tokenizer and note.

        Args:
            folder: of the model.
            engines: runs it; see `engines_of`.

        Raises:
            ModelError: not a model folder, a damaged one, or one of a model that was not trained to recommend.
        """
        self.tokenizer, self.note = model_folder.load_words(folder)
        if not self.note.prompt:
            raise ModelError(f"the model in {folder} was trained to judge candidates, not to recommend.")
        self._engines, self._folder = engines, folder

    def on(self, catalogue: Catalogue, folder: Path, beams: int | None = None) -> Generative:
        """A recommender for a catalogue.

        Args:
            catalogue: the one that the model was trained on, or one that extends it.
            folder: where it lies; vLLM's processes load it there.
            beams: see `Generative`.

        Raises:
            ModelError: the model was trained on another catalogue, or lacks tokens of it.
        """
        _check_catalogue(self.note, catalogue, f"the model in {self._folder}")
        tokens = token_ids(self.tokenizer, catalogue.tokens)
        return Generative(self.tokenizer, self.note, catalogue, self._engines(catalogue, folder, tokens), beams)


def _check_catalogue(note: Note, catalogue: Catalogue, model: str) -> None:
    """See that a model was trained on a catalogue, or on one that it extends.

    Raises:
        ModelError: it was not; `model` is how the message begins.
    """
    if note.catalogue not in catalogue.lineage:
        raise ModelError(
            f"{model} was trained on the catalogue {note.catalogue[:12]}…, not on {catalogue.hash[:12]}…. "
            "Use the catalogue folder of its own run."
        )


def engines_of(name: EngineName, folder: Path, **options: Any) -> EngineFactory:
    """What runs a model folder in this process.

    Args:
        name: transformers, which loads it now; or vllm, which takes half a minute to start for each catalogue.
        folder: of the model.
        options: arguments of `vllm.LLM`, for that engine.

    Raises:
        ModelError: it cannot be loaded.
        ExtraError: vLLM is not installed.
    """
    if name == "transformers":
        return transformers_engines(folder)
    extras.need("serve")
    from llmrec.decode.vllm_engine import VllmEngine

    return lambda catalogue, catalogue_folder, _: VllmEngine.open(folder, catalogue_folder, **options)


def engine_named(name: str) -> EngineName:
    """An engine's name, as a user typed it.

    Raises:
        RequestError: there is no such engine.
    """
    known: dict[str, EngineName] = {engine: engine for engine in get_args(EngineName)}
    if name in known:
        return known[name]
    raise RequestError(f"there is no engine '{name}': say transformers or vllm.")
