"""Which items a dialogue shows: the wishes as filters, the model's ranking, free words and seeds by meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from llmrec.chat.client import Declined, Given
from llmrec.chat.meaning import Meanings
from llmrec.chat.state import State
from llmrec.chat.store import Store, Wish

LISTED = 10_000  # items that a request may list
POOL = 100  # items that are ranked again by meaning
NEAREST = 200  # items that free words leave, where they choose before the model does
Act = Literal["rerank", "nearest"]


@dataclass(frozen=True)
class Chosen:
    """Items to show.

    Attributes:
        items: item numbers, best first.
        missed: wishes that nothing fulfils; the items are the nearest.
        ranked_by: model or popularity, or catalogue where the server could do neither.
    """

    items: list[int]
    missed: list[Wish]
    ranked_by: str


class Source(Protocol):
    """Whatever recommends: a client of a server, or a recommender in this process."""

    def recommend(self, history: Sequence[str], k: int, **more: Any) -> Given:
        """See `Client.recommend`."""
        ...


class Chooser:
    """Asks a recommender."""

    def __init__(
        self,
        client: Source,
        store: Store,
        meanings: Meanings | None = None,
        queries: bool = False,
        weight: float = 1.0,
        act: Act = "rerank",
    ) -> None:
        """Choose from a store.

        Args:
            meanings: of its items; None leaves free words without effect.
            queries: the model was trained to search by free words.
            weight: of nearness in meaning beside the model's log-probability, each in its own standard deviations.
            act: whether free words rank the model's best again, or first leave it the nearest items only.
        """
        self.client, self.store, self.meanings = client, store, meanings
        self.queries, self.weight, self.act = queries, weight, act

    def choose(self, state: State, k: int, without: set[str] = frozenset()) -> Chosen:  # type: ignore[assignment]
        """The next items.

        Args:
            without: item ids that are not wanted now.

        Raises:
            ServerDown: nothing answers.
        """
        hidden = {*state.liked, *state.disliked, *without}
        free = np.array([thing.item_id not in hidden for thing in self.store.things], bool)
        fits, missed = self._fits(state.wishes, free, k)
        near = self._near(state)
        if near is not None and self.act == "nearest":
            order = np.argsort(-np.where(fits, near, -np.inf), kind="stable")[:NEAREST]
            fits = fits & np.isin(np.arange(len(fits)), order)
        if not fits.any():
            return Chosen([], missed, "model")
        body = self._filter(fits, [wish for wish in state.wishes if wish not in missed], hidden)
        given = self._ask(state, body, k if near is None else max(k, POOL))
        if given is None:
            return Chosen(np.flatnonzero(fits)[:k].tolist(), missed, "catalogue")
        items = self._fitting(given, fits)
        if "where" in body and len(items) < min(k, int(fits.sum())):  # it let others through, and they took the places
            further = self._ask(state, {"allow": self._listed(fits, near)}, k)
            items = self._fitting(further, fits) | items if further else items
        ranked = sorted(items.items(), key=lambda one: -one[1])
        return Chosen(self._ranked(ranked, near)[:k], missed, given.ranked_by)

    def _fitting(self, given: Given, fits: np.ndarray) -> dict[int, float]:
        """Item number → log-probability, of the recommended items that fit."""
        numbers = ((self.store.number.get(one), score) for one, score in given.items)
        return {at: score for at, score in numbers if at is not None and fits[at]}

    def _listed(self, fits: np.ndarray, near: np.ndarray | None) -> list[str]:
        """As many ids of the items that fit as a request may list: the nearest in meaning, or the first."""
        numbers = np.flatnonzero(fits)
        if near is not None:
            numbers = numbers[np.argsort(-near[numbers], kind="stable")]
        return [self.store.things[at].item_id for at in numbers[:LISTED]]

    def _fits(self, wishes: list[Wish], free: np.ndarray, k: int) -> tuple[np.ndarray, list[Wish]]:
        """(items,) bool of what fulfils all wishes; where nothing does, of the nearest, and which wishes they miss."""
        if not wishes or not free.any():
            return free, []
        short = np.stack([self.store.short(wish) for wish in wishes])
        allowed = free & (short[[not wish.wanted for wish in wishes]] == 0).all(axis=0)
        if allowed.any():
            free = allowed  # what is not wanted gives way only where there is nothing else
        far = np.where(free, short.sum(axis=0), np.inf)
        if (far == 0).any():
            return far == 0, []
        limit = np.sort(far)[min(k, int(free.sum())) - 1]
        near = far <= limit
        return near, [wish for wish, row in zip(wishes, short, strict=True) if (row[near] > 0).any()]

    def _near(self, state: State) -> np.ndarray | None:
        """(items,) nearness to the free words and the seeds; None where there are none."""
        seeds = [self.store.number[one] for one in state.seeds if one in self.store.number]
        if self.meanings is None or not (state.about or seeds):
            return None
        rows = [self.meanings.near(seed) for seed in seeds] + ([self.meanings.like(state.about)] if state.about else [])
        return np.stack(rows).mean(axis=0).astype(np.float64)

    def _ask(self, state: State, body: dict[str, Any], k: int) -> Given | None:
        """Recommendations of a request's filter; None where there is no history and no popularity to rank by."""
        if self.queries and state.about:
            body = body | {"query": state.about[:512]}
        history = [one for one in state.liked if one in self.store.number][-LISTED:]
        pool = min(POOL if "where" in body else k, POOL, len(self.store))
        try:
            return self.client.recommend(history, pool, **body)
        except Declined as refused:
            if refused.param == "history" and not history:
                return None
            if refused.param != "k":
                raise
            return self.client.recommend(history, min(10, len(self.store)), **body)

    def _filter(self, fits: np.ndarray, wishes: list[Wish], hidden: set[str]) -> dict[str, Any]:
        """The items that fit, as a request says it: those allowed or denied, whichever are fewer; or the wishes.

        Args:
            fits: (items,) bool.
            wishes: what all items that fit fulfil.
            hidden: ids of items that do not fit, whatever they fulfil.
        """
        field, listed = min(("allow", fits), ("deny", ~fits), key=lambda one: int(one[1].sum()))
        if listed.sum() <= LISTED:
            return {field: [self.store.things[at].item_id for at in np.flatnonzero(listed)]}
        return {"where": constraints(wishes), "deny": [one for one in hidden if one in self.store.number][:LISTED]}

    def _ranked(self, items: list[tuple[int, float]], near: np.ndarray | None) -> list[int]:
        """Items by the model, or by the model and nearness together."""
        numbers = [at for at, _ in items]
        if near is None or len(items) < 2:
            return numbers
        model, meaning = np.array([score for _, score in items]), near[numbers]
        together = _standard(model) + self.weight * _standard(meaning)
        return [numbers[at] for at in np.argsort(-together, kind="stable")]


def constraints(wishes: Iterable[Wish]) -> dict[str, dict[str, Any]]:
    """Wishes as `where` of a request has them: column → what its cells must hold.

    What cannot be written so is left out: denied years and prices, and a second value that is wanted of one column.
    """
    found: dict[str, dict[str, Any]] = {}
    for wish in wishes:
        column = found.setdefault(wish.column, {})
        if wish.values and wish.wanted:
            column.setdefault("any", list(wish.values))
        elif wish.values:
            column["none"] = [*column.get("none", []), *wish.values]
        if wish.wanted and np.isfinite(wish.low):
            column["min"] = max(wish.low, column.get("min", wish.low))
        if wish.wanted and np.isfinite(wish.high):
            column["max"] = min(wish.high, column.get("max", wish.high))
    return {name: one for name, one in found.items() if one}


def _standard(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros(len(values))
