"""Recommender: histories in, real items out. Metrics, rewards, chat and HTTP see only this."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec import extras
from llmrec.decode.blend import Blend
from llmrec.decode.engine import Engine, TransformersEngine
from llmrec.decode.filters import Filter
from llmrec.decode.search import Ranked
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.folder import NOTE, Note
from llmrec.model.prompting import encode
from llmrec.model.vocabulary import token_ids
from llmrec.recipe_file import recipe_of
from llmrec.tasks.examples import next_item_prompt
from llmrec.tasks.templates import Wording

EngineName = Literal["transformers", "vllm"]


class Recommender:
    """A trained model and its catalogue.

    Attributes:
        catalogue: items and codes.
        note: what the model was trained with.
        engine: what runs the model.
        blend: a teacher whose expectations are mixed in; None for the model alone.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        note: Note,
        catalogue: Catalogue,
        engine: Engine,
        held_out_wording: bool = False,
        blend: Blend | None = None,
    ) -> None:
        """Put a recommender together; `open` does it from a model folder.

        Args:
            held_out_wording: prompt with a wording that training never saw.
            blend: a teacher whose expectations are mixed in.

        Raises:
            ModelError: the model was trained on another catalogue.
        """
        if note.catalogue not in catalogue.lineage:
            raise ModelError(
                f"the model {tokenizer.name_or_path} was trained on the catalogue {note.catalogue[:12]}…, not on "
                f"{catalogue.hash[:12]}…. "
                "Use the catalogue folder of its own run."
            )
        self.tokenizer, self.note, self.catalogue, self.engine = tokenizer, note, catalogue, engine
        self.blend = blend
        self.wording = Wording(prompt=note.held_out_prompt if held_out_wording else note.prompt, answer="")

    @classmethod
    def open(
        cls,
        folder: Path,
        catalogue_folder: Path,
        held_out_wording: bool = False,
        engine: EngineName = "transformers",
        **options: Any,
    ) -> Recommender:
        """Load a model folder for a catalogue.

        Args:
            folder: a model folder.
            catalogue_folder: of the catalogue that it was trained on.
            held_out_wording: prompt with a wording that training never saw.
            engine: what runs the model.
            options: arguments of `vllm.LLM`, for that engine.

        Raises:
            ModelError: not a model folder, or one of another catalogue.
            CodeError: not an intact catalogue folder.
            ExtraError: vLLM is not installed.
        """
        engine = engine_named(engine)
        tokenizer, note = model_folder.load_words(folder)
        catalogue = Catalogue.load(catalogue_folder)
        if engine == "vllm":
            extras.need("serve")
            from llmrec.decode.vllm_engine import VllmEngine

            runs: Engine = VllmEngine.open(folder, catalogue_folder, **options)
        else:
            model = model_folder.load_model(folder)
            runs = TransformersEngine(model, catalogue.trie, token_ids(tokenizer, catalogue.tokens))
        return cls(tokenizer, note, catalogue, runs, held_out_wording)

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        exclude_seen: bool | None = None,
        beams: int | None = None,
    ) -> list[tuple[str, float]]:
        """The k likeliest next items of one history.

        Args:
            history: item ids, oldest first; the newest `note.history` are used, unknown ones are left out with a
                warning. Numbers stand for the ids that they are written as.
            k: items wanted.
            allow: item ids, the only ones given; None for the whole catalogue.
            deny: item ids never given.
            exclude_seen: leave out items of the history; `note.exclude_seen`, as it was judged, otherwise.
            beams: prefixes kept at each level; more lose less. At least k; `note.beams`, as it was judged, otherwise.

        Returns:
            (item id, log-probability), best first, distinct; fewer than k, with a warning, where the filters leave
            fewer. Where a teacher is mixed in, the probability is the mixture's.

        Raises:
            RequestError: k is not between 1 and the catalogue's size, no item of the history is known, or a filter
                names unknown items.
        """
        if not isinstance(k, Integral):
            raise RequestError(f"k is a whole number, not {k!r}.")
        if not 1 <= k <= len(self.catalogue.item_ids):
            raise RequestError(
                f"k must be between 1 and the catalogue's {len(self.catalogue.item_ids)} items, not {k}."
            )
        numbers = self.known(history)
        exclude_seen = self.note.exclude_seen if exclude_seen is None else exclude_seen
        denied = self._numbers(deny, "deny") + (numbers if exclude_seen else [])
        allowed = None if allow is None else self._numbers(allow, "allow")
        found = self.rank([numbers], k, [Filter.of(self.catalogue.trie, denied, allowed)], beams)
        pairs = zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)
        named = [(self.catalogue.item_ids[item], score) for item, score in pairs if item >= 0]
        if len(named) < k:
            warnings.warn(f"the filters leave {len(named)} items, fewer than the {k} asked for", stacklevel=2)
        return named

    def rank(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[Filter | None] | None = None,
        beams: int | None = None,
    ) -> Ranked:
        """As `recommend`, for a batch of histories of item numbers."""
        if self.blend is None:
            return self.alone(histories, k, filters, beams)
        width = max(k, beams or self.note.beams)
        return self.blend(self.alone(histories, width, filters, width), histories, filters, k)

    def alone(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[Filter | None] | None = None,
        beams: int | None = None,
    ) -> Ranked:
        """As `rank`, by the model, whatever is mixed in elsewhere."""
        most = len(self.catalogue.item_ids)
        width = min(max(k, beams or self.note.beams), most)
        return self.engine.rank(self.prompts(histories), min(k, most), filters, width)

    def score(self, histories: Sequence[Sequence[int]], filters: Sequence[Filter | None] | None = None) -> np.ndarray:
        """(rows, items) float32 log-probability of every item: an exact ranking of the whole catalogue, by the model.

        Raises:
            RequestError: the engine is vLLM, which tells only the likeliest.
        """
        return self.engine.score(self.prompts(histories), filters)

    def prompts(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        """Tokens of the next-item prompt of each history of item numbers."""
        recent = [list(history)[-self.note.history :] for history in histories]
        return [encode(self.tokenizer, next_item_prompt(self.wording, row, self.catalogue)[0]) for row in recent]

    def known(self, history: Sequence[str]) -> list[int]:
        """Item numbers of the known items of a history.

        Raises:
            RequestError: it has items and none is known.
        """
        history, known = _ids(history, "history"), self.catalogue.item_number
        unknown = [item_id for item_id in history if item_id not in known]
        if unknown and len(unknown) == len(history):
            raise RequestError(f"no item of the history is in the catalogue: {self._named(unknown)}")
        if unknown:
            warnings.warn(
                f"left out of the history, since the catalogue lacks them: {self._named(unknown)}", stacklevel=3
            )
        return [known[item_id] for item_id in history if item_id in known]

    def _numbers(self, item_ids: Iterable[str], what: str) -> list[int]:
        known, wanted = self.catalogue.item_number, _ids(item_ids, what)
        unknown = [item_id for item_id in wanted if item_id not in known]
        if unknown:
            raise RequestError(f"`{what}` names items that the catalogue lacks: {self._named(unknown)}")
        return [known[item_id] for item_id in wanted]

    def _named(self, unknown: list[str]) -> str:
        near = difflib.get_close_matches(str(unknown[0]), self.catalogue.item_ids[:100_000], 1, 0.7)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return ", ".join(f"'{item_id}'" for item_id in unknown[:5]) + ("…" if len(unknown) > 5 else ".") + hint


def _ids(given: Iterable[object], what: str) -> list[str]:
    """Item ids as texts: a data frame holds numbers where it can. One text is no list, though Python takes it for one.

    Raises:
        RequestError: it is one text.
    """
    if isinstance(given, str):
        raise RequestError(f"`{what}` is a list of item ids, not the text '{given}': ['{given}']")
    return [str(item_id) for item_id in given]


def engine_named(name: str) -> EngineName:
    """An engine's name, as somebody typed it.

    Raises:
        RequestError: there is no such engine.
    """
    known: dict[str, EngineName] = {engine: engine for engine in get_args(EngineName)}
    if name in known:
        return known[name]
    raise RequestError(f"there is no engine '{name}': say transformers or vllm.")


def as_judged(note: Note, run: Path) -> Note:
    """A model's note with the beams, and the rule for items of the history, that its run is judged by.

    Args:
        note: of the model.
        run: its run folder, or an export, whose note has them.

    Raises:
        RunError: it is no run folder.
    """
    if (run / NOTE).is_file():
        return note
    judged = recipe_of(run).evaluate
    return replace(note, beams=judged.beams, exclude_seen=judged.exclude_seen)
