"""Recommenders as they lie in a folder: opened as the description of a run or of an export says.

A new kind of recommender is a line in `KINDS`, and one in `description.NODES`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from llmrec import collaborative
from llmrec.contracts import Items, Recommender, Request
from llmrec.decode.description import Description
from llmrec.decode.generative import EngineFactory, Generative, GenerativeModel, transformers_engines
from llmrec.decode.recommenders import Collaborative, Ensemble, Member
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue

Model = Callable[[Catalogue, Path], Recommender]
"""A loaded model: a catalogue that it knows the codes of, and its folder → a recommender; ModelError for others."""


@dataclass(frozen=True)
class Options:
    """How a recommender is opened.

    Attributes:
        engines: a model folder → what runs it.
        beams: prefixes that a search keeps; as the model was judged if None.
        held_out_prompt: prompt with a template that training never saw.
    """

    engines: Callable[[Path], EngineFactory] = transformers_engines
    beams: int | None = None
    held_out_prompt: bool = False


def _generative(node: dict[str, Any], root: Path, options: Options) -> Model:
    folder, beams = root / node["folder"], options.beams or node["beams"]
    return GenerativeModel(folder, options.engines(folder), beams).on


def _collaborative(node: dict[str, Any], root: Path, options: Options) -> Model:
    ids = Catalogue.load(root / node["items"]).item_ids
    model = collaborative.load(root / node["folder"], Items(ids))
    return lambda catalogue, folder: Collaborative(model, catalogue.item_ids)


def _ensemble(node: dict[str, Any], root: Path, options: Options) -> Model:
    members = [(_open(one["recommender"], root, options), one["weight"], one["depth"]) for one in node["members"]]
    return lambda catalogue, folder: Ensemble(
        [Member(model(catalogue, folder), weight, depth) for model, weight, depth in members]
    )


KINDS: dict[str, Callable[[dict[str, Any], Path, Options], Model]] = {
    "generative": _generative,
    "collaborative": _collaborative,
    "ensemble": _ensemble,
}


def _open(node: dict[str, Any], root: Path, options: Options) -> Model:
    return KINDS[node["kind"]](node, root, options)


class RecommenderFolder:
    """A run's recommender or an export, opened: models are loaded once, for any catalogue of theirs."""

    def __init__(self, root: Path, description: Description, options: Options = Options()) -> None:
        """Load the models of a description whose folders lie in `root`; a ModelError where one is damaged."""
        self.description, self.catalogue_folder = description, root / description["catalogue"]
        self._model = _open(description["recommender"], root, options)
        self._held_out_prompt = options.held_out_prompt

    def on(self, folder: Path | None = None, catalogue: Catalogue | None = None) -> OpenedRecommender:
        """The recommender for a catalogue.

        Args:
            folder: of the catalogue; the one that the models were trained on for None.
            catalogue: what lies there, where it is loaded already.

        Raises:
            ModelError: it is none of this model.
        """
        folder = folder or self.catalogue_folder
        catalogue = catalogue or Catalogue.load(folder)
        recommender = self._model(catalogue, folder)
        if self._held_out_prompt:
            recommender = with_held_out_prompt(recommender) or recommender
        return OpenedRecommender(self.description["name"], recommender, catalogue, self.description["exclude_seen"])


def with_held_out_prompt(recommender: Recommender) -> Recommender | None:
    """The same recommender with its language model prompted by a template that training never saw; None without one."""
    if isinstance(recommender, Generative):
        return recommender.with_held_out_prompt()
    if not isinstance(recommender, Ensemble):
        return None
    other = [with_held_out_prompt(member.recommender) for member in recommender.members]
    if not any(other):
        return None
    pairs = zip(recommender.members, other, strict=True)
    return Ensemble([replace(member, recommender=new or member.recommender) for member, new in pairs])


@dataclass(eq=False)
class OpenedRecommender:
    """A recommender and its catalogue: item ids in, item ids out. `llmrec.load` makes one of a folder.

    Attributes:
        name: of the model.
        recommender: works on item numbers; see `contracts.Recommender`.
        exclude_seen: whether items of the history are left out where a caller does not say.
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
        """The k likeliest next items of one history.

        Args:
            history: item ids, oldest first; unknown ones are left out with a warning. Numbers stand for the ids that
                they are written as.
            k: items wanted.
            words: what the user wants, for a model that reads words.
            user: id of the user, for a model that was trained with ids of users.
            allow: item ids, the only ones given; None for the whole catalogue.
            deny: item ids never given.
            exclude_seen: leave out items of the history; as the model was judged if None.

        Returns:
            (item id, log-probability), best first, distinct; fewer than k, with a warning, where filters leave fewer.

        Raises:
            RequestError: k is not between 1 and the catalogue's size, no item of the history is known, a filter names
                unknown items, or there are words for a model that reads none.
        """
        if not isinstance(k, Integral):
            raise RequestError(f"k is a whole number, not {k!r}.")
        if words and "words" not in self.recommender.reads:
            raise RequestError("this model was not trained with words: leave `words` out.")
        numbers = self.known(history)
        excluded = numbers if (self.exclude_seen if exclude_seen is None else exclude_seen) else []
        denied = np.array([*self._all(deny, "deny"), *excluded], np.int64)
        allowed = None if allow is None else np.array(self._all(allow, "allow"), np.int64)
        request = Request(numbers, words=words, user=user, allowed=allowed, denied=denied)
        self.recommender.check(request)
        ranked = self.recommender.rank([request], int(k))
        pairs = zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True)
        named = [(self.catalogue.item_ids[item], score) for item, score in pairs if item >= 0]
        if len(named) < k:
            warnings.warn(f"the filters leave {len(named)} items, fewer than the {k} asked for", stacklevel=2)
        return named

    def known(self, history: Sequence[str]) -> list[int]:
        """Item numbers of the known items of a history; unknown ones give a warning, or an error if all are."""
        numbers, unknown = self._numbers(history, "history")
        if unknown and not numbers:
            raise RequestError(f"no item of the history is in the catalogue: {unknown}")
        if unknown:
            warnings.warn(f"left out of the history, since the catalogue lacks them: {unknown}", stacklevel=3)
        return numbers

    def _all(self, item_ids: Iterable[str], what: str) -> list[int]:
        """Item numbers of a filter, whose items must all be known."""
        numbers, unknown = self._numbers(item_ids, what)
        if unknown:
            raise RequestError(f"`{what}` names items that the catalogue lacks: {unknown}")
        return numbers

    def _numbers(self, item_ids: Iterable[object], what: str) -> tuple[list[int], str]:
        """Item numbers of the known ids, and the unknown ids in words; ids may be numbers, as a data frame has them."""
        if isinstance(item_ids, str):
            raise RequestError(f"`{what}` is a list of item ids, not the text '{item_ids}': ['{item_ids}']")
        ids, known = [str(item_id) for item_id in item_ids], self.catalogue.item_number
        unknown = [item_id for item_id in ids if item_id not in known]
        near = difflib.get_close_matches(unknown[0], self.catalogue.item_ids[:100_000], 1, 0.7) if unknown else []
        hint = f" Did you mean '{near[0]}'?" if near else ""
        words = ", ".join(f"'{item_id}'" for item_id in unknown[:5]) + ("…" if len(unknown) > 5 else ".") + hint
        return [known[item_id] for item_id in ids if item_id in known], words if unknown else ""
