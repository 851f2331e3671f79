"""The recommendation service: answers requests from one catalogue, and checks what comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from llmrec.contracts import ItemSet, Request
from llmrec.decode.load import LoadedRecommender
from llmrec.items.text import plain_text
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.lookup import Constraints, Users
from llmrec.serve.schemas import ApiError, RecommendedItem, RecommendRequest, RecommendResponse, Timing
from llmrec.serve.settings import Limits
from llmrec.tasks.templates import sanitize

SHOWN = 100  # unknown items listed in an answer


class RecommendationService:
    """Answers requests from one catalogue of a model."""

    def __init__(
        self, name: str, opened: LoadedRecommender, engine: DynamicBatching, users: Users, limits: Limits
    ) -> None:
        """Serve a recommender under a name for clients, run by an engine."""
        self.name, self.opened, self.engine, self.users, self.limits = name, opened, engine, users, limits
        self.catalogue = opened.catalogue
        self._constraints = Constraints(self.catalogue)
        self._popular = users.popular(self.catalogue)
        self._invalid = 0

    async def answer(self, ask: RecommendRequest, request_id: str) -> RecommendResponse:
        """The items for one request; `ApiError` where it cannot be answered as it is."""
        begin = time.perf_counter()
        self._check(ask)
        request, unknown = self._request(ask)
        by_model = bool(len(request.history) or request.words)
        prepared = time.perf_counter() - begin
        if by_model:
            found = await self.engine.rank(self.opened.recommender, request, ask.k)
            items, scores, waited, ranked = found.items, found.scores, found.waited, found.ranked
        else:
            items, scores, waited, ranked = *self._by_popularity(request, ask.k), 0.0, 0.0
        items, scores = self._checked(items, scores, request)
        seconds = (prepared, waited, ranked, time.perf_counter() - begin)
        return RecommendResponse(
            request_id=request_id,
            model=self.name,
            catalogue=self.catalogue.hash,
            ranked_by="model" if by_model else "popularity",
            items=self._shown(items, scores),
            unknown=unknown[:SHOWN],
            notes=self._notes(ask, request, len(unknown), len(items)),
            timing_ms=Timing(**dict(zip(Timing.model_fields, (round(1e3 * one, 3) for one in seconds), strict=True))),
        )

    @property
    def takes_queries(self) -> bool:
        """Whether the model reads words."""
        return "words" in self.opened.recommender.reads

    def take_invalid(self) -> int:
        """Items that a recommender gave and that were no allowed ones, since this was last called."""
        fresh, self._invalid = self._invalid, 0
        return fresh

    def _check(self, ask: RecommendRequest) -> None:
        """Limits, and fields that exclude one another."""
        limits, items = self.limits, len(self.catalogue.item_ids)
        if (ask.history is None) == (ask.user is None):
            raise ApiError(422, "say for whom: either `history` or `user`.", "history")
        if ask.k > (most := min(limits.k, items)):
            raise ApiError(422, f"k is {str(ask.k)[:20]}, but at most {most} items are given at a time.", "k")
        for name, listed, most in (
            ("history", ask.history, limits.history),
            ("allow", ask.allow, limits.listed),
            ("deny", ask.deny, limits.listed),
        ):
            if listed is not None and len(listed) > most:
                raise ApiError(422, f"`{name}` lists {len(listed)} items, and {most} are the most: send fewer.", name)
        if ask.query is not None and len(ask.query) > limits.query:
            raise ApiError(422, f"`query` has more than {limits.query} characters: shorten it.", "query")
        if ask.query is not None and not self.takes_queries:
            raise ApiError(
                422,
                "this model was not trained with queries, and words that it never saw would only disturb it. Leave "
                "`query` out and narrow the items down by `category`, `where` or `allow`, or train with the task "
                "`item_search`.",
                "query",
            )

    def _request(self, ask: RecommendRequest) -> tuple[Request, list[str]]:
        """A request in item numbers, and the item ids that the catalogue lacks."""
        history = self.users.history(ask.user) if ask.user is not None else ask.history or []
        seen, unknown = self._numbers(history, "history")
        denied, more = self._numbers(ask.deny, None)
        allowed, others = self._numbers(ask.allow, "allow") if ask.allow is not None else (None, [])
        excluded = self.opened.exclude_seen if ask.exclude_seen is None else ask.exclude_seen
        hidden = np.unique(np.array([*denied, *(seen if excluded else ())], np.int64))
        constrained = self._constraints.items(ask.category, ask.where)
        only: np.ndarray | ItemSet | None = constrained
        if allowed is not None:
            listed = np.unique(np.array(allowed, np.int64))
            only = listed[constrained.mask[listed]] if constrained else listed
        words = sanitize(plain_text(ask.query)) if ask.query else ""
        return Request(seen, words=words, user=ask.user or "", allowed=only, denied=hidden), [*unknown, *more, *others]

    def _numbers(self, ids: Sequence[str], fatal: str | None) -> tuple[list[int], list[str]]:
        """Item numbers of known ids, and the unknown ids; where all are unknown and that is fatal, a refusal."""
        known = self.catalogue.item_number
        unknown = [one for one in ids if one not in known]
        if fatal and unknown and len(unknown) == len(ids):
            shown = ", ".join(f"'{one[:64]}'" for one in unknown[:5]) + ("…" if len(unknown) > 5 else "")
            raise ApiError(422, f"the catalogue has no item of `{fatal}`: {shown}", fatal)
        return [known[one] for one in ids if one in known], unknown

    def _by_popularity(self, request: Request, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The items that most users have, ties in the order of the catalogue; scores are log-shares of all users."""
        if not len(self._popular):
            raise ApiError(
                422,
                "the history is empty, and this model was served without data to tell popular items from.",
                "history",
            )
        items = np.argsort(-self._popular, kind="stable")
        items = items[request.permits(items) & (self._popular[items] > 0)][:k]
        return items, np.log(self._popular[items] / max(1, self._popular.sum()))

    def _checked(self, items: np.ndarray, scores: np.ndarray, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """What may be given. Recommenders give nothing else; what one gave all the same is counted, never shown."""
        given = items >= 0
        items, scores = items[given], scores[given]
        last = len(self.catalogue.item_ids) - 1
        fine = (items <= last) & request.permits(np.minimum(items, last))
        first = np.zeros(len(items), bool)
        first[np.unique(items, return_index=True)[1]] = True
        self._invalid += int((~(fine & first)).sum())
        return items[fine & first], scores[fine & first]

    def _shown(self, items: np.ndarray, scores: np.ndarray) -> list[RecommendedItem]:
        ids, titles = self.catalogue.item_ids, self.catalogue.titles
        share = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
        share = share / share.sum() if len(share) else share
        rows = zip(items.tolist(), scores.tolist(), share.tolist(), strict=True)
        return [RecommendedItem(item_id=ids[at], title=titles[at], score=score, share=part) for at, score, part in rows]

    def _notes(self, ask: RecommendRequest, request: Request, unknown: int, given: int) -> list[str]:
        notes, most = [], self.opened.recommender.reads_items
        if not len(request.history) and not request.words:
            notes.append("the history is empty, so these are the items that most users have")
        elif most is not None and len(request.history) > most:
            notes.append(f"the model read the newest {most} of {len(request.history)} items of the history")
        notes += self.opened.recommender.notes(request)
        if unknown:
            notes.append(f"{unknown} item(s) of the request are not in the catalogue and were left out")
        if given < ask.k:
            notes.append(f"the filters leave {given} of the {ask.k} items wanted")
        return notes
