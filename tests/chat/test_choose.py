"""Choosing items for a dialogue by any recommender: here a dot product of vectors, without codes, in this process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dot_product import DotProduct

from llmrec.chat.choose import LISTED, ItemSelector, State
from llmrec.chat.client import Declined, Recommended
from llmrec.chat.store import CatalogueItem, ItemConstraint, Store
from llmrec.contracts import Request
from llmrec.decode.load import LoadedRecommender
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.lookup import Users
from llmrec.serve.schemas import ApiError, RecommendRequest
from llmrec.serve.service import RecommendationService
from llmrec.serve.settings import Limits

COLUMNS = ("year", "price", "kind")


class InProcess:
    """The service of a server, asked without one."""

    def __init__(self, service: RecommendationService) -> None:
        self.service = service
        self.asked: list[dict[str, Any]] = []

    def recommend(self, history: Sequence[str], k: int, **more: Any) -> Recommended:
        """As `Client.recommend`."""
        self.asked.append(more)
        try:
            answer = asyncio.run(
                self.service.answer(RecommendRequest(history=list(history), k=k, exclude_seen=True, **more), "one")
            )
        except ApiError as refused:
            raise Declined(str(refused), refused.param) from None
        items = [(item.item_id, item.score) for item in answer.items]
        return Recommended(items, answer.ranked_by)


def chooser_of(count: int) -> tuple[ItemSelector, DotProduct, dict[str, np.ndarray]]:
    """Items of which the likeliest are the dearest, the oldest and all of the kind `loud`; some have no price."""
    draw = np.random.default_rng(0)
    numbers = np.arange(count)
    columns = {
        "year": np.where(numbers < count // 2, 1950 + numbers % 40, 1990 + numbers % 30),
        "price": np.where(numbers % 10 == 9, np.nan, (count - numbers) / 100),
        "kind": np.where(numbers % 2 == 0, "loud|new", np.where(numbers % 21 == 1, "quiet", "quiet|new")),
    }
    vectors = np.concatenate([draw.normal(0, 0.1, (count, 4)), np.ones((count, 1))], axis=1)
    vectors[:, 4] += 4 * (numbers < count // 2) + 4 * (numbers % 2 == 0)  # in every product with a history
    ids = [f"i{number}" for number in numbers]
    rows = {name: [None if one != one else one for one in values.tolist()] for name, values in columns.items()}
    items = pa.table({"item_id": ids, "title": ids} | rows)
    side = math.isqrt(count) + 1
    catalogue = Catalogue.of(items, np.stack([numbers // side, numbers % side], axis=1).astype(np.int32), [side, side])
    recommender = DotProduct(vectors)
    opened = LoadedRecommender("dots", recommender, catalogue, exclude_seen=True)
    service = RecommendationService("dots", opened, DynamicBatching(), Users(None), Limits())
    things = [CatalogueItem(ids[at], ids[at], "", {name: rows[name][at] for name in COLUMNS}) for at in range(count)]
    return ItemSelector(InProcess(service), Store(catalogue.hash, things)), recommender, columns


def best(recommender: DotProduct, history: list[int], fitting: np.ndarray) -> list[int]:
    """Item numbers that fit and are not of the history, the likeliest first."""
    order = recommender.rank([Request(history)], recommender.n_items).items[0]
    return [at for at in order.tolist() if fitting[at] and at not in history]


@pytest.fixture(scope="module")
def many() -> tuple[ItemSelector, DotProduct, dict[str, np.ndarray]]:
    """More items than a request may list, twice over."""
    return chooser_of(2 * LISTED + 5000)


FITTING = {
    "years": ([ItemConstraint("year", low=1990, high=2018)], lambda year, price, kind: (year >= 1990) & (year <= 2018)),
    "a price": ([ItemConstraint("price", high=120.0)], lambda year, price, kind: price <= 120),
    "a denial": (
        [ItemConstraint("kind", False, ("loud",))],
        lambda year, price, kind: ~np.char.startswith(kind, "loud"),
    ),
    "either of two values": (
        [ItemConstraint("kind", values=("loud", "quiet")), ItemConstraint("year", low=1990)],
        lambda year, price, kind: year >= 1990,
    ),
    "a value, a denial and years": (
        [
            ItemConstraint("kind", values=("new",)),
            ItemConstraint("kind", False, ("loud",)),
            ItemConstraint("year", low=1951),
        ],
        lambda year, price, kind: (kind == "quiet|new") & (year >= 1951),
    ),
    "two values at once": (
        [ItemConstraint("kind", values=("new",)), ItemConstraint("kind", values=("quiet",))],
        lambda year, price, kind: kind == "quiet|new",
    ),
    "denied years": (
        [ItemConstraint("year", False, low=1900, high=1989)],
        lambda year, price, kind: year >= 1990,
    ),
    "a denied price": ([ItemConstraint("price", False, low=120.0)], lambda year, price, kind: ~(price >= 120)),
}


@pytest.mark.parametrize("wished", FITTING)
def test_of_more_items_than_can_be_listed_those_that_fit_the_wishes_are_found(many, wished: str) -> None:
    chooser, _, columns = many
    wishes, fit = FITTING[wished]
    fitting = fit(*(columns[name] for name in COLUMNS))
    chosen = chooser.select(State(liked=["i0"], disliked=["i1"], constraints=wishes), 10)
    assert len(chosen.items) == 10 and not chosen.missed and chosen.ranked_by == "model"
    assert fitting[chosen.items].all() and LISTED < fitting.sum() < len(fitting) - LISTED


@pytest.mark.parametrize(
    "wished", ["years", "a price", "a denial", "either of two values", "a value, a denial and years"]
)
def test_of_more_items_than_can_be_listed_the_likeliest_that_fit_are_found(many, wished: str) -> None:
    chooser, recommender, columns = many
    wishes, fit = FITTING[wished]
    fitting = fit(*(columns[name] for name in COLUMNS)) & (np.arange(len(columns["year"])) != 1)
    chosen = chooser.select(State(liked=["i0"], disliked=["i1"], constraints=wishes), 10)
    assert chosen.items == best(recommender, [0], fitting)[:10]


def test_of_more_items_than_can_be_listed_none_that_was_shown_comes_again(many) -> None:
    chooser, _, _ = many
    state, shown = State(liked=["i0"], constraints=[ItemConstraint("kind", False, ("quiet",))]), set()
    for _ in range(13):  # 130 items, more than are asked for at a time
        found = {f"i{at}" for at in chooser.select(state, 10, shown).items}
        assert len(found) == 10 and not found & shown
        shown |= found


def test_wishes_that_nothing_of_very_many_items_fulfils_give_the_nearest(many) -> None:
    chooser, _, columns = many
    chosen = chooser.select(
        State(liked=["i0"], constraints=[ItemConstraint("kind", False, ("loud",)), ItemConstraint("year", low=3000)]),
        10,
    )
    assert len(chosen.items) == 10 and [wish.column for wish in chosen.missed] == ["year"]
    assert (columns["year"][chosen.items] == columns["year"].max()).all()
    odd = [ItemConstraint("kind", values=("quiet",)), ItemConstraint("kind", values=("loud",))]
    chosen = chooser.select(State(liked=["i0"], constraints=odd), 10)
    assert len(chosen.items) == 10 and chosen.missed


def test_a_recommender_without_language_model_and_codes_gives_its_best_that_fit() -> None:
    chooser, recommender, columns = chooser_of(300)
    state = State(
        liked=["i0", "i5"], constraints=[ItemConstraint("year", low=1990), ItemConstraint("kind", False, ("loud",))]
    )
    fitting = (columns["year"] >= 1990) & ~np.char.startswith(columns["kind"], "loud")
    assert chooser.select(state, 10).items == best(recommender, [0, 5], fitting)[:10]
