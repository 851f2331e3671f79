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
from typing import Any, Protocol

import numpy as np

from llmrec import collaborative
from llmrec.contracts import Items, Recommender, Request
from llmrec.decode.collaborative import Collaborative
from llmrec.decode.description import Description
from llmrec.decode.engine import EngineFactory, transformers_engines
from llmrec.decode.ensemble import Ensemble, Member
from llmrec.decode.generative import Generative, GenerativeModel
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue


class Model(Protocol):
    """What a node of a description becomes: loaded once, and used for any catalogue that it knows the codes of."""

    def on(self, catalogue: Catalogue, folder: Path) -> Recommender:
        """A recommender for a catalogue, which lies in a folder.

        Raises:
            ModelError: it is not one of this model.
        """
        ...


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


class _Generative:
    """See `description.GenerativeNode`."""

    def __init__(self, node: dict[str, Any], root: Path, options: Options) -> None:
        folder = root / node["folder"]
        self.model = GenerativeModel(folder, options.engines(folder))
        self.beams = options.beams or node["beams"]

    def on(self, catalogue: Catalogue, folder: Path) -> Recommender:
        return self.model.on(catalogue, folder, self.beams)


class _Collaborative:
    """See `description.CollaborativeNode`."""

    def __init__(self, node: dict[str, Any], root: Path, options: Options) -> None:
        ids = Catalogue.load(root / node["items"]).item_ids
        self.model = collaborative.load(root / node["folder"], Items(ids))

    def on(self, catalogue: Catalogue, folder: Path) -> Recommender:
        return Collaborative(self.model, catalogue.item_ids)


class _Ensemble:
    """See `description.EnsembleNode`."""

    def __init__(self, node: dict[str, Any], root: Path, options: Options) -> None:
        self.members = [
            (load(member["recommender"], root, options), member["weight"], member["depth"])
            for member in node["members"]
        ]

    def on(self, catalogue: Catalogue, folder: Path) -> Recommender:
        return Ensemble([Member(model.on(catalogue, folder), weight, depth) for model, weight, depth in self.members])


KINDS: dict[str, Callable[[dict[str, Any], Path, Options], Model]] = {
    "generative": _Generative,
    "collaborative": _Collaborative,
    "ensemble": _Ensemble,
}


def load(node: dict[str, Any], root: Path, options: Options) -> Model:
    """Load what a node of a description names.

    Raises:
        ModelError: a folder is damaged or missing, or of another kind.
    """
    return KINDS[node["kind"]](node, root, options)


class RecommenderFolder:
    """A run's recommender or an export, opened: models are loaded once, for any catalogue of theirs.

    Attributes:
        root: the run or export.
        description: what it is made of.
        catalogue_folder: the catalogue that it was trained on.
    """

    def __init__(self, root: Path, description: Description, options: Options = Options()) -> None:
        """Load the models of a description.

        Args:
            root: folder that the description's folders lie in.
            description: as `read_description` gives it, or a run's plan.
            options: how to open it.

        Raises:
            ModelError: a folder is damaged or missing, or of another kind.
        """
        self.root, self.description = root, description
        self.catalogue_folder = root / description["catalogue"]
        self._model = load(description["recommender"], root, options)
        self._held_out_prompt = options.held_out_prompt

    def on(self, folder: Path | None = None, catalogue: Catalogue | None = None) -> OpenedRecommender:
        """The recommender for a catalogue.

        Args:
            folder: of the catalogue; the one that the models were trained on for None.
            catalogue: what lies there, where it is loaded already.

        Raises:
            CodeError: the catalogue's folder is not intact.
            ModelError: it is none of this model.
        """
        folder = folder or self.catalogue_folder
        catalogue = catalogue or Catalogue.load(folder)
        recommender = self._model.on(catalogue, folder)
        if self._held_out_prompt:
            recommender = with_held_out_prompt(recommender) or recommender
        return OpenedRecommender(self.description["name"], recommender, catalogue, self.description["exclude_seen"])


def with_held_out_prompt(recommender: Recommender) -> Recommender | None:
    """The same recommender with its language model asked by a template that training never saw; None without one."""
    if isinstance(recommender, Generative):
        return recommender.with_held_out_prompt()
    if not isinstance(recommender, Ensemble):
        return None
    other = [with_held_out_prompt(member.recommender) for member in recommender.members]
    if not any(other):
        return None
    pairs = zip(recommender.members, other, strict=True)
    return Ensemble([replace(member, recommender=new or member.recommender) for member, new in pairs])


class OpenedRecommender:
    """A recommender and its catalogue: item ids in, item ids out.

    Attributes:
        name: of the model.
        recommender: works on item numbers; see `contracts.Recommender`.
        catalogue: items by number.
        exclude_seen: whether items of the history are left out where a caller does not say.
    """

    def __init__(self, name: str, recommender: Recommender, catalogue: Catalogue, exclude_seen: bool) -> None:
        """Put them together; `llmrec.load` does it for a folder."""
        self.name, self.recommender, self.catalogue, self.exclude_seen = name, recommender, catalogue, exclude_seen

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
        denied = np.array([*self._numbers(deny, "deny"), *excluded], np.int64)
        allowed = None if allow is None else np.array(self._numbers(allow, "allow"), np.int64)
        request = Request(numbers, words=words, user=user, allowed=allowed, denied=denied)
        self.recommender.check(request)
        ranked = self.recommender.rank([request], int(k))
        pairs = zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True)
        named = [(self.catalogue.item_ids[item], score) for item, score in pairs if item >= 0]
        if len(named) < k:
            warnings.warn(f"the filters leave {len(named)} items, fewer than the {k} asked for", stacklevel=2)
        return named

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
