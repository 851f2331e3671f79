"""Recommendation service: answers requests with items of one catalogue, and checks the recommended items."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from llmrec.contracts import ItemSet, Request
from llmrec.decode.filters import item_numbers
from llmrec.decode.load import LoadedRecommender
from llmrec.items.item_text import plain_text
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.lookup import ColumnIndex, Users
from llmrec.serve.schemas import ApiError, RecommendedItem, RecommendRequest, RecommendResponse, Timing
from llmrec.serve.settings import Limits
from llmrec.tasks.templates import sanitize

MAX_UNKNOWN = 100  # unknown items listed in an answer


class RecommendationService:
    """Answer requests with items of one catalogue."""

    def __init__(
        self, name: str, loaded: LoadedRecommender, engine: DynamicBatching, users: Users, limits: Limits
    ) -> None:
        """Serve a recommender on an engine; `name` is the model's name for clients."""
        self.name, self.loaded, self.engine, self.users, self.limits = name, loaded, engine, users, limits
        self.catalogue = loaded.catalogue
        self._columns = ColumnIndex(self.catalogue)
        self._popularity = users.item_popularity(self.catalogue)
        self._invalid = 0

    async def answer(self, body: RecommendRequest, request_id: str) -> RecommendResponse:
        """Answer one request; an ApiError if it cannot be answered."""
        begin = time.perf_counter()
        self._check(body)
        request, unknown = self._parse(body)
        by_model = bool(len(request.history) or request.words)
        prepared = time.perf_counter() - begin
        if by_model:
            result = await self.engine.rank(self.loaded.recommender, request, body.k)
            items, scores, waited, ranked = result.items, result.scores, result.waited, result.ranked
        else:
            items, scores, waited, ranked = *self._rank_by_popularity(request, body.k), 0.0, 0.0
        items, scores = self._drop_invalid(items, scores, request)
        seconds = (prepared, waited, ranked, time.perf_counter() - begin)
        return RecommendResponse(
            request_id=request_id,
            model=self.name,
            catalogue=self.catalogue.hash,
            ranked_by="model" if by_model else "popularity",
            items=self._response_items(items, scores),
            unknown=unknown[:MAX_UNKNOWN],
            notes=self._notes(body, request, len(unknown), len(items)),
            timing_ms=Timing(**dict(zip(Timing.model_fields, (round(1e3 * each, 3) for each in seconds), strict=True))),
        )

    @property
    def takes_queries(self) -> bool:
        """Whether the model was trained with queries."""
        return "words" in self.loaded.recommender.reads

    def take_invalid(self) -> int:
        """Number of dropped invalid items since the last call."""
        count, self._invalid = self._invalid, 0
        return count

    def _check(self, body: RecommendRequest) -> None:
        """Check limits, and fields that exclude one another."""
        limits, n_items = self.limits, len(self.catalogue.item_ids)
        if (body.history is None) == (body.user is None):
            raise ApiError(422, "send either `history` or `user`.", "history")
        if body.k > (limit := min(limits.k, n_items)):
            raise ApiError(422, f"k is {str(body.k)[:20]}, but at most {limit} items are returned at a time.", "k")
        for field, ids, limit in (
            ("history", body.history, limits.history),
            ("allow", body.allow, limits.listed),
            ("deny", body.deny, limits.listed),
        ):
            if ids is not None and len(ids) > limit:
                raise ApiError(
                    422, f"`{field}` lists {len(ids)} items, but at most {limit} are allowed: send fewer.", field
                )
        if body.query is not None and len(body.query) > limits.query:
            raise ApiError(422, f"`query` has more than {limits.query} characters: shorten it.", "query")
        if body.query is not None and not self.takes_queries:
            raise ApiError(
                422,
                "this model was not trained with queries, which would only disturb it. Leave `query` out and filter "
                "items by `category`, `where` or `allow`, or train with the task `item_search`.",
                "query",
            )

    def _parse(self, body: RecommendRequest) -> tuple[Request, list[str]]:
        """A request in item numbers, and the unknown item ids."""
        history = self.users.history(body.user) if body.user is not None else body.history or []
        seen, unknown = self._numbers(history, "history")
        denied, unknown_denied = item_numbers(self.catalogue, body.deny)
        allowed, unknown_allowed = self._numbers(body.allow, "allow") if body.allow is not None else (None, [])
        excluded = self.loaded.exclude_seen if body.exclude_seen is None else body.exclude_seen
        denied_items = np.unique(np.array([*denied, *(seen if excluded else ())], np.int64))
        constrained = self._columns.items(body.category, body.where)
        allowed_items: np.ndarray | ItemSet | None = constrained
        if allowed is not None:
            listed = np.unique(np.array(allowed, np.int64))
            allowed_items = listed[constrained.mask[listed]] if constrained else listed
        words = sanitize(plain_text(body.query)) if body.query else ""
        request = Request(seen, words=words, user=body.user or "", allowed=allowed_items, denied=denied_items)
        return request, [*unknown, *unknown_denied, *unknown_allowed]

    def _numbers(self, ids: Sequence[str], field: str) -> tuple[list[int], list[str]]:
        """Item numbers of the known ids, and the unknown ids; an ApiError if all are unknown."""
        numbers, unknown = item_numbers(self.catalogue, ids)
        if unknown and not numbers:
            shown = ", ".join(f"'{each[:64]}'" for each in unknown[:5]) + ("…" if len(unknown) > 5 else "")
            raise ApiError(422, f"the catalogue has no item of `{field}`: {shown}", field)
        return numbers, unknown

    def _rank_by_popularity(self, request: Request, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Items by number of users, ties in the order of the catalogue; scores are the log of their fraction."""
        if not len(self._popularity):
            raise ApiError(
                422,
                "the history is empty, and the server has no data to find popular items with.",
                "history",
            )
        items = np.argsort(-self._popularity, kind="stable")
        items = items[request.permits(items) & (self._popularity[items] > 0)][:k]
        return items, np.log(self._popularity[items] / max(1, self._popularity.sum()))

    def _drop_invalid(self, items: np.ndarray, scores: np.ndarray, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Drop and count items that are not allowed, or repeated; recommenders should return none."""
        items, scores = items[items >= 0], scores[items >= 0]
        last = len(self.catalogue.item_ids) - 1
        valid = np.zeros(len(items), bool)
        valid[np.unique(items, return_index=True)[1]] = True
        valid &= (items <= last) & request.permits(np.minimum(items, last))
        self._invalid += int((~valid).sum())
        return items[valid], scores[valid]

    def _response_items(self, items: np.ndarray, scores: np.ndarray) -> list[RecommendedItem]:
        ids, titles = self.catalogue.item_ids, self.catalogue.titles
        share = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
        share = share / share.sum() if len(share) else share
        rows = zip(items.tolist(), scores.tolist(), share.tolist(), strict=True)
        return [RecommendedItem(item_id=ids[i], title=titles[i], score=score, share=part) for i, score, part in rows]

    def _notes(self, body: RecommendRequest, request: Request, n_unknown: int, n_items: int) -> list[str]:
        notes, limit = [], self.loaded.recommender.reads_items
        if not len(request.history) and not request.words:
            notes.append("the history is empty, so these are the items that most users have")
        elif limit is not None and len(request.history) > limit:
            notes.append(f"the model read the newest {limit} of {len(request.history)} items of the history")
        notes += self.loaded.recommender.notes(request)
        if n_unknown:
            notes.append(f"{n_unknown} item(s) of the request are not in the catalogue and were left out")
        if n_items < body.k:
            notes.append(f"the filters leave {n_items} of the {body.k} items asked for")
        return notes
