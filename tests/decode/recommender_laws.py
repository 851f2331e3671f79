"""What every recommender promises; a new one inherits these tests by a class that makes one and knows its scores.

class TestMine(RecommenderLaws):
    @pytest.fixture(scope="class")
    def recommender(self, catalogue): ...     # over the items of `catalogue`
    def scores(self, recommender, request): ...        # by brute force
"""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmrec.contracts import ItemSet, Ranked, Recommender, Request
from llmrec.data.dataset import Dataset
from llmrec.decode.load import LoadedRecommender
from llmrec.errors import RequestError
from llmrec.evaluate.ranking import evaluate
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Evaluate
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.lookup import Users
from llmrec.serve.schemas import RecommendRequest
from llmrec.serve.service import RecommendationService
from llmrec.serve.settings import Limits

ITEMS = 40
CLOSE = 2e-4  # nats in which two float32 sums of the same terms may differ
EVERY_THIRD = np.arange(ITEMS) % 3 == 0


def histories() -> list[list[int]]:
    """Item numbers: none, one, repeats, and more than any recommender here reads."""
    draw = np.random.default_rng(3)
    return [[], [7], [5, 5, 5], [30, 31, 2], *(draw.integers(0, ITEMS, size).tolist() for size in (4, 9, 60))]


def filters(history: list[int]) -> dict[str, Request]:
    """Requests of one history that name no item of it as denied."""
    new = np.setdiff1d(np.arange(ITEMS), history)
    return {
        "nothing": Request(history),
        "denied": Request(history, denied=new[::2]),
        "denied twice": Request(history, denied=np.repeat(new[:1], 2)),
        "allowed": Request(history, allowed=np.array([33, 1, 12, 20, 8, 9])),
        "a set": Request(history, allowed=ItemSet(EVERY_THIRD)),
        "a set and denied": Request(history, allowed=ItemSet(EVERY_THIRD), denied=new[::2]),
        "all but two": Request(history, denied=new[2:]),
        "no item": Request(history, allowed=np.zeros(0, np.int64)),
        "an empty set": Request(history, allowed=ItemSet(np.zeros(ITEMS, bool))),
    }


def unseen(history: list[int], **more: object) -> Request:
    """A request whose history may not come again."""
    return Request(history, denied=np.unique(np.array(history, np.int64)), **more)  # type: ignore[arg-type]


REQUESTS = [
    *(request for history in histories() for request in filters(history).values()),
    *(unseen(history) for history in histories()),
    *(unseen(history, allowed=ItemSet(EVERY_THIRD)) for history in histories()),
]


def row_of(ranked: Ranked, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores of a row, without what fills it up."""
    given = ranked.items[row] >= 0
    return ranked.items[row][given], ranked.scores[row][given]


class RecommenderLaws:
    """The tests. A member makes a recommender over the items of the small world, and knows its scores."""

    refused: ClassVar[Request | None] = None  # a request that it cannot answer
    noted: ClassVar[Request | None] = None  # one of which it does not read all
    weighs_anew: ClassVar[bool] = False  # whether a filter may add a number to all scores of a list

    @pytest.fixture(scope="class")
    def catalogue(self, tiny_run: Path) -> Catalogue:
        """The catalogue of the small world."""
        return Catalogue.load(tiny_run / "catalogue")

    @pytest.fixture(scope="class")
    def recommender(self, catalogue: Catalogue) -> Recommender:
        """The member, exact: a search keeps as many beams as there are items."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def opened(self, recommender: Recommender, catalogue: Catalogue) -> LoadedRecommender:
        """The member with item ids."""
        return LoadedRecommender("mine", recommender, catalogue, exclude_seen=True)

    def scores(self, recommender: Recommender, request: Request) -> np.ndarray:
        """(items,) log-probabilities before filters, -inf for what it never recommends; by brute force."""
        raise NotImplementedError

    def filtered(self, recommender: Recommender, request: Request) -> np.ndarray:
        """(items,) `scores`, -inf where the request does not permit an item."""
        return np.where(request.permits(np.arange(ITEMS)), self.scores(recommender, request), -np.inf)

    def assert_best(self, recommender: Recommender, request: Request, items: np.ndarray, scores: np.ndarray) -> None:
        """A list is the best of the brute force's scores, whatever the order of equals."""
        truth = self.filtered(recommender, request)
        best = np.sort(truth[np.isfinite(truth)])[::-1][: len(items)]
        np.testing.assert_allclose(scores, best, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(truth[items], best, rtol=0, atol=CLOSE)

    def test_lists_hold_distinct_items_with_falling_scores_and_are_filled_up_at_the_end(
        self, recommender: Recommender
    ) -> None:
        for k in (1, 7, ITEMS):
            ranked = recommender.rank(REQUESTS, k)
            assert ranked.items.shape == ranked.scores.shape == (len(REQUESTS), k)
            assert ranked.items.dtype == np.int32 and ranked.scores.dtype == np.float32
            for row in range(len(REQUESTS)):
                items, scores = row_of(ranked, row)
                assert len(set(items.tolist())) == len(items) and (items < recommender.n_items).all()
                assert np.isfinite(scores).all() and (np.diff(scores) <= 0).all()
                assert (ranked.items[row][len(items) :] == -1).all() and np.isneginf(
                    ranked.scores[row][len(items) :]
                ).all()

    def test_lists_are_the_best_of_its_scores_by_brute_force(self, recommender: Recommender) -> None:
        for k in (1, 7, ITEMS):
            ranked = recommender.rank(REQUESTS, k)
            for row, request in enumerate(REQUESTS):
                items, scores = row_of(ranked, row)
                assert len(items) == min(k, np.isfinite(self.filtered(recommender, request)).sum())
                self.assert_best(recommender, request, items, scores)

    def test_what_is_denied_or_not_allowed_never_comes(self, recommender: Recommender) -> None:
        ranked = recommender.rank(REQUESTS, ITEMS)
        for row, request in enumerate(REQUESTS):
            items, _ = row_of(ranked, row)
            assert not set(items.tolist()) & set(np.asarray(request.denied).tolist())
            if isinstance(request.allowed, ItemSet):
                assert request.allowed.mask[items].all()
            elif request.allowed is not None:
                assert set(items.tolist()) <= set(request.allowed.tolist())

    def test_a_filter_only_takes_items_out(self, recommender: Recommender) -> None:
        for history in histories():
            whole_items, whole_scores = row_of(recommender.rank([Request(history)], ITEMS), 0)
            known = dict(zip(whole_items.tolist(), whole_scores.tolist(), strict=True))
            for request in filters(history).values():
                items, scores = row_of(recommender.rank([request], ITEMS), 0)
                assert set(items.tolist()) == set(whole_items[request.permits(whole_items)].tolist())
                change = scores - [known[item] for item in items.tolist()]
                constant = change.mean() if self.weighs_anew and len(items) else 0
                np.testing.assert_allclose(change, constant, rtol=0, atol=CLOSE)

    def test_an_array_and_a_set_of_the_same_items_allow_the_same(self, recommender: Recommender) -> None:
        for history in histories():
            by_set, by_array = (
                recommender.rank([Request(history, allowed=allowed)], ITEMS)
                for allowed in (ItemSet(EVERY_THIRD), np.flatnonzero(EVERY_THIRD))
            )
            np.testing.assert_array_equal(by_set.items, by_array.items)

    def test_a_set_that_served_one_request_serves_others(self, recommender: Recommender) -> None:
        kept = ItemSet(EVERY_THIRD)
        for history in (*histories(), *histories()):
            items, scores = row_of(recommender.rank([Request(history, allowed=kept)], 5), 0)
            self.assert_best(recommender, Request(history, allowed=kept), items, scores)

    def test_the_others_in_a_batch_change_nothing(self, recommender: Recommender) -> None:
        order = np.random.default_rng(0).permutation(len(REQUESTS))
        together = recommender.rank([REQUESTS[place] for place in order], 7)
        for row, place in enumerate(order):
            _, scores = row_of(recommender.rank([REQUESTS[place]], 7), 0)
            mixed, among = row_of(together, row)
            np.testing.assert_allclose(among, scores, rtol=0, atol=CLOSE)
            self.assert_best(recommender, REQUESTS[place], mixed, among)
        assert recommender.rank([], 7).items.shape == (0, 7)

    def test_a_short_list_is_the_beginning_of_a_long_one(self, recommender: Recommender) -> None:
        whole = recommender.rank(REQUESTS, ITEMS)
        for k in (1, 7):
            np.testing.assert_allclose(recommender.rank(REQUESTS, k).scores, whole.scores[:, :k], rtol=0, atol=CLOSE)

    @pytest.mark.parametrize("k", [-1, 0, ITEMS + 1])
    def test_k_out_of_range_is_refused_with_the_range(self, recommender: Recommender, k: int) -> None:
        with pytest.raises(RequestError, match=f"k must be between 1 and the catalogue's {ITEMS} items, not {k}"):
            recommender.rank([Request([1])], k)

    def test_ranking_leaves_requests_as_they_are(self, recommender: Recommender) -> None:
        request = Request(np.array([3, 4]), denied=np.array([9, 3]), allowed=np.array([12, 3, 4, 9]))
        recommender.rank([request], 3)
        assert [list(request.history), list(request.denied), list(request.allowed)] == [[3, 4], [9, 3], [12, 3, 4, 9]]  # type: ignore[arg-type]

    def test_what_it_checks_it_answers_and_what_it_refuses_it_refuses_in_a_batch(
        self, recommender: Recommender
    ) -> None:
        for request in REQUESTS:
            recommender.check(request)
        if self.refused is not None:
            with pytest.raises(RequestError):
                recommender.check(self.refused)
            with pytest.raises(RequestError):
                recommender.rank([Request([1]), self.refused], 3)

    def test_notes_are_of_requests_that_it_does_not_wholly_read(self, recommender: Recommender) -> None:
        assert all(recommender.notes(request) == [] for request in REQUESTS)
        if self.noted is not None:
            assert all(isinstance(note, str) and note for note in recommender.notes(self.noted))
            assert recommender.notes(self.noted)

    def test_what_it_does_not_read_changes_nothing(self, recommender: Recommender) -> None:
        assert recommender.reads <= {"history", "times", "words", "user"}
        more = {"times": [1, 2, 3], "words": "something sad", "user": "u1"}
        request = Request([30, 31, 2], denied=np.array([7]))
        blind = replace(request, **{name: value for name, value in more.items() if name not in recommender.reads})
        one, other = (recommender.rank([asked], ITEMS) for asked in (request, blind))
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_array_equal(one.scores, other.scores)

    def test_it_reads_as_many_items_of_a_history_as_it_says(self, recommender: Recommender) -> None:
        assert "history" in recommender.reads
        count = recommender.reads_items
        long = histories()[-1]
        newest = long if count is None else long[-count:]
        one, other = (recommender.rank([Request(history)], ITEMS) for history in (long, newest))
        np.testing.assert_array_equal(one.items, other.items)
        if count is not None:  # and the oldest of these, too
            changed = recommender.rank([Request([(newest[0] + 1) % ITEMS, *newest[1:]])], ITEMS)
            assert np.abs(changed.scores - one.scores).max() > CLOSE
        assert (recommender.rank([Request([3])], 5).items != recommender.rank([Request([21])], 5).items).any()

    def test_item_ids_in_give_item_ids_out(self, opened: LoadedRecommender, catalogue: Catalogue) -> None:
        ids, recommender = catalogue.item_ids, opened.recommender
        for history in histories():
            for exclude_seen in (None, True, False):
                request = Request(history) if exclude_seen is False else unseen(history)
                request = replace(request, allowed=np.flatnonzero(EVERY_THIRD), denied=np.append(request.denied, 9))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of lists that are shorter
                    found = opened.recommend(
                        [ids[item] for item in history],
                        7,
                        allow=[ids[item] for item in np.flatnonzero(EVERY_THIRD)],
                        deny=[ids[9]],
                        exclude_seen=exclude_seen,
                    )
                items, scores = row_of(recommender.rank([request], 7), 0)
                assert found == [(ids[item], score) for item, score in zip(items, scores.tolist(), strict=True)]

    def test_a_server_gives_what_it_recommends(self, opened: LoadedRecommender, catalogue: Catalogue) -> None:
        engine = DynamicBatching()
        service = RecommendationService("mine", opened, engine, Users(None), Limits())
        asks = [
            RecommendRequest(history=[catalogue.item_ids[item] for item in history], k=7, exclude_seen=exclude_seen)
            for history in histories()[1:]
            for exclude_seen in (True, False)
        ]

        async def answers() -> list[list[tuple[str, float]]]:
            given = await asyncio.gather(*(service.answer(ask, "one") for ask in asks))
            await engine.close()
            return [[(item.item_id, item.score) for item in answer.items] for answer in given]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lists that are shorter
            for ask, found in zip(asks, asyncio.run(answers()), strict=True):
                truth = opened.recommend(ask.history or (), 7, exclude_seen=ask.exclude_seen)
                assert [item for item, _ in found] == [item for item, _ in truth]
                np.testing.assert_allclose([s for _, s in found], [s for _, s in truth], rtol=0, atol=CLOSE)
        assert service.take_invalid() == 0

    @pytest.mark.parametrize("exclude_seen", [True, False])
    def test_it_is_evaluated_by_the_lists_that_it_gives(
        self, recommender: Recommender, tiny_run: Path, tmp_path: Path, exclude_seen: bool
    ) -> None:
        dataset = Dataset.load(tiny_run / "data")
        settings = Evaluate(ranking=["hr@1", "hr@5", "ndcg@5"], beams=ITEMS, exclude_seen=exclude_seen)
        evaluate(recommender, "mine", dataset, settings, {}, 0, tmp_path, lambda done: None)
        cases = dataset.cases(settings.split)
        hits = []
        lists: dict[str, list[str]] = {}
        for row in pq.read_table(tmp_path / "recommendations.parquet").to_pylist():
            lists.setdefault(row["user_id"], []).append(row["item_id"])
        for number, target in enumerate(cases.targets):
            history = cases.histories[number].tolist()
            request = unseen(history) if exclude_seen else Request(history)
            truth = self.filtered(recommender, request)
            given = [dataset.item_ids.index(item) for item in lists.get(dataset.user_ids[cases.users[number]], [])]
            best = np.sort(truth[np.isfinite(truth)])[::-1][: len(given)]
            np.testing.assert_allclose(truth[given], best, rtol=0, atol=CLOSE)
            hits.append(int(target) in given[:5])
        per_user = pq.read_table(tmp_path / "per_user.parquet")
        np.testing.assert_array_equal(per_user["mine hr@5"].to_numpy(), np.array(hits, float))
