"""Load recommenders from a run folder or an export, by their specification.

A new kind of recommender is a line in `KINDS`, and one in `recommender_spec.NODES`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from llmrec import collaborative
from llmrec.contracts import Items, Recommender, Request
from llmrec.decode.filters import item_numbers, list_unknown
from llmrec.decode.generative import EngineFactory, Generative, GenerativeModel, transformers_engine_factory
from llmrec.decode.recommender_spec import RecommenderSpec
from llmrec.decode.recommenders import Collaborative, Ensemble, Member
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue

Model = Callable[[Catalogue, Path], Recommender]
"""A loaded model: (catalogue, its folder) → a recommender; a ModelError for a catalogue of another model."""


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a recommender.

    Attributes:
        engines: (model folder) → its engines.
        beams: of a search; as in the evaluation if None.
        held_out_prompt: use a prompt template that training never saw.
    """

    engines: Callable[[Path], EngineFactory] = transformers_engine_factory
    beams: int | None = None
    held_out_prompt: bool = False


def _generative(node: dict[str, Any], root: Path, options: LoadOptions) -> Model:
    folder, beams = root / node["folder"], options.beams or node["beams"]
    return GenerativeModel(folder, options.engines(folder), beams).for_catalogue


def _collaborative(node: dict[str, Any], root: Path, options: LoadOptions) -> Model:
    ids = Catalogue.load(root / node["items"]).item_ids
    model = collaborative.load(root / node["folder"], Items(ids))
    return lambda catalogue, folder: Collaborative(model, catalogue.item_ids)


def _ensemble(node: dict[str, Any], root: Path, options: LoadOptions) -> Model:
    members = [(_load(each["recommender"], root, options), each["weight"], each["depth"]) for each in node["members"]]
    return lambda catalogue, folder: Ensemble(
        [Member(model(catalogue, folder), weight, depth) for model, weight, depth in members]
    )


KINDS: dict[str, Callable[[dict[str, Any], Path, LoadOptions], Model]] = {
    "generative": _generative,
    "collaborative": _collaborative,
    "ensemble": _ensemble,
}


def _load(node: dict[str, Any], root: Path, options: LoadOptions) -> Model:
    return KINDS[node["kind"]](node, root, options)


class RecommenderFolder:
    """The recommender of a run or an export: its models are loaded once, for all their catalogues."""

    def __init__(self, root: Path, spec: RecommenderSpec, options: LoadOptions = LoadOptions()) -> None:
        """Load the models of a specification whose folders are below `root`; a ModelError if one is damaged."""
        self.spec, self.catalogue_folder = spec, root / spec["catalogue"]
        self._model = _load(spec["recommender"], root, options)
        self._held_out_prompt = options.held_out_prompt

    def for_catalogue(self, folder: Path | None = None, catalogue: Catalogue | None = None) -> LoadedRecommender:
        """The recommender for a catalogue.

        Args:
            folder: of the catalogue; None for the one that the models were trained on.
            catalogue: in this folder, if it is loaded already.

        Raises:
            ModelError: the catalogue is of another model.
        """
        folder = folder or self.catalogue_folder
        catalogue = catalogue or Catalogue.load(folder)
        recommender = self._model(catalogue, folder)
        if self._held_out_prompt:
            recommender = with_held_out_prompt(recommender) or recommender
        return LoadedRecommender(self.spec["name"], recommender, catalogue, self.spec["exclude_seen"])


def with_held_out_prompt(recommender: Recommender) -> Recommender | None:
    """The same recommender with a prompt template that training never saw; None if it has none."""
    if isinstance(recommender, Generative):
        return recommender.with_held_out_prompt()
    if not isinstance(recommender, Ensemble):
        return None
    changed = [with_held_out_prompt(member.recommender) for member in recommender.members]
    if not any(changed):
        return None
    pairs = zip(recommender.members, changed, strict=True)
    return Ensemble([replace(member, recommender=new or member.recommender) for member, new in pairs])


@dataclass(eq=False)
class LoadedRecommender:
    """A recommender with its catalogue, for item ids; `llmrec.load` returns one.

    Attributes:
        name: of the model.
        recommender: for item numbers, see `contracts.Recommender`.
        exclude_seen: whether items of the history are excluded by default.
    """

    name: str
    recommender: Recommender
    catalogue: Catalogue
    exclude_seen: bool

    def recommend(
        self,
        history: Sequence[str] = (),
        k: int = 10,
        words: str = "",
        user: str = "",
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        exclude_seen: bool | None = None,
    ) -> list[tuple[str, float]]:
        """Return the k most likely next items after a history.

        Args:
            history: item ids, oldest first; unknown ones are skipped with a warning. Numbers are read as strings.
            words: free text, for a model that was trained with queries.
            user: id of the user, for a model that was trained with user ids.
            allow: item ids, the only ones returned; None for the whole catalogue.
            deny: item ids that are never returned.
            exclude_seen: exclude items of the history; as in the evaluation if None.

        Returns:
            (item id, log-probability), best first, distinct; fewer than k, with a warning, if the filters leave fewer.

        Raises:
            RequestError: k is not between 1 and the catalogue's size, no item of the history is known, a filter has
                unknown items, or there are words for a model that reads none.
        """
        if not isinstance(k, Integral):
            raise RequestError(f"k is a whole number, not {k!r}.")
        if words and "words" not in self.recommender.reads:
            raise RequestError("this model was not trained with words: leave `words` out.")
        numbers = self.history_numbers(history)
        excluded = numbers if (self.exclude_seen if exclude_seen is None else exclude_seen) else []
        denied = np.array([*self._all_numbers(deny, "deny"), *excluded], np.int64)
        allowed = None if allow is None else np.array(self._all_numbers(allow, "allow"), np.int64)
        request = Request(numbers, words=words, user=user, allowed=allowed, denied=denied)
        self.recommender.check(request)
        ranked = self.recommender.rank([request], int(k))
        pairs = zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True)
        items = [(self.catalogue.item_ids[item], score) for item, score in pairs if item >= 0]
        if len(items) < k:
            warnings.warn(f"the filters leave {len(items)} items, fewer than the {k} asked for", stacklevel=2)
        return items

    def history_numbers(self, history: Sequence[str]) -> list[int]:
        """Item numbers of a history; unknown items give a warning, or a RequestError if all are."""
        numbers, unknown = self._numbers(history, "history")
        if unknown and not numbers:
            raise RequestError(f"no item of the history is in the catalogue: {unknown}")
        if unknown:
            warnings.warn(f"left out of the history, since the catalogue lacks them: {unknown}", stacklevel=3)
        return numbers

    def _all_numbers(self, item_ids: Iterable[str], argument: str) -> list[int]:
        """Item numbers of a filter, whose items must all be known."""
        numbers, unknown = self._numbers(item_ids, argument)
        if unknown:
            raise RequestError(f"`{argument}` names items that the catalogue lacks: {unknown}")
        return numbers

    def _numbers(self, item_ids: Iterable[object], argument: str) -> tuple[list[int], str]:
        """Item numbers of the known ids, and the unknown ids for a message; ids may be numbers, as in a data frame."""
        if isinstance(item_ids, str):
            raise RequestError(f"`{argument}` is a list of item ids, not the text '{item_ids}': ['{item_ids}']")
        numbers, unknown = item_numbers(self.catalogue, map(str, item_ids))
        return numbers, list_unknown(self.catalogue, unknown) if unknown else ""
