"""A desk answers requests by one catalogue: it reads them, writes prompts and filters, and checks what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.decode.blend import Blend
from llmrec.decode.filters import Filter
from llmrec.decode.search import Ranked
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.items.text import plain
from llmrec.model.folder import Note
from llmrec.model.prompting import encode
from llmrec.serve.categories import Categories, Category
from llmrec.serve.ranker import Found, Ranker
from llmrec.serve.refused import Refused
from llmrec.serve.settings import Limits
from llmrec.serve.shapes import Answer, Ask, Item, Timing
from llmrec.serve.users import Users
from llmrec.tasks.templates import fill, neutral

SHOWN = 100  # unknown items listed in an answer


@dataclass(frozen=True)
class _Wanted:
    """A request in item numbers.

    Attributes:
        seen: the history, oldest first.
        denied: (n,) never given.
        allowed: (n,) item numbers, the only ones given; None for every item.
        category: given besides `allowed`, and an item must be in both.
        unknown: item ids that the catalogue lacks.
        query: words that cannot be read as a code or a control token; "" where there are none.
    """

    seen: list[int]
    denied: np.ndarray
    allowed: np.ndarray | None
    category: Category | None
    unknown: list[str]
    query: str

    @property
    def for_model(self) -> bool:
        """Whether there is anything that the model could go by."""
        return bool(self.seen or self.query)

    def offered(self, items: np.ndarray) -> np.ndarray:
        """(n,) bool, whether each item number may be given."""
        fine = ~np.isin(items, self.denied)
        fine &= np.isin(items, self.allowed) if self.allowed is not None else True
        return fine & self.category.mask[items] if self.category else fine

    def filter(self, trie: Trie) -> Filter | None:
        """The same, as a search takes it."""
        if self.allowed is not None:
            both = self.allowed[self.category.mask[self.allowed]] if self.category else self.allowed
            return Filter.of(trie, self.denied, both)
        if self.category is None and not len(self.denied):
            return None
        return Filter.of(trie, self.denied, self.category.subset if self.category else None)


class Desk:
    """One catalogue of a model."""

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        note: Note,
        catalogue: Catalogue,
        ranker: Ranker,
        users: Users,
        limits: Limits,
        blend: Blend | None = None,
    ) -> None:
        """Furnish a desk.

        Args:
            name: of the model, for clients.
            note: of the model; its catalogue need not be this one.
            blend: a teacher whose expectations are mixed in, but where words are asked for: it reads none.
        """
        self.name, self.catalogue, self.ranker, self.users, self.limits = name, catalogue, ranker, users, limits
        self._tokenizer, self._note, self._blend = tokenizer, note, blend
        self._categories = Categories(catalogue)
        self._popular = users.popular(catalogue)
        self._invalid = 0

    async def answer(self, ask: Ask, request_id: str) -> Answer:
        """The items for one request.

        Raises:
            Refused: the request cannot be answered as it is.
        """
        begin = time.perf_counter()
        self._check(ask)
        wanted = self._wanted(ask)
        if not wanted.for_model:
            prepared = time.perf_counter() - begin
            items, scores, waited, ranked = *self._by_popularity(wanted, ask.k), 0.0, 0.0
        else:
            prompt, allowed = self.prompt(wanted.seen, wanted.query), wanted.filter(self.catalogue.trie)
            prepared = time.perf_counter() - begin
            found = await self.ranker.rank(prompt, self._width(ask.k), allowed)
            if self._blend and not wanted.query:
                found = await asyncio.to_thread(self._mixed, self._blend, found, wanted.seen, allowed)
            items, scores, waited, ranked = found.items[: ask.k], found.scores[: ask.k], found.waited, found.ranked
        items, scores = self._real(items, scores, wanted)
        seconds = (prepared, waited, ranked, time.perf_counter() - begin)
        return Answer(
            request_id=request_id,
            model=self.name,
            catalogue=self.catalogue.hash,
            ranked_by="model" if wanted.for_model else "popularity",
            items=self._shown(items, scores),
            unknown=wanted.unknown[:SHOWN],
            notes=self._notes(ask, wanted, len(items)),
            timing_ms=Timing(**dict(zip(Timing.model_fields, (round(1e3 * one, 3) for one in seconds), strict=True))),
        )

    @property
    def takes_queries(self) -> bool:
        """Whether the model learned to search by words."""
        return bool(self._note.search or self._note.search_history)

    def take_invalid(self) -> int:
        """Items that the search gave and that were no allowed ones, since this was last asked."""
        fresh, self._invalid = self._invalid, 0
        return fresh

    def prompt(self, seen: Sequence[int], query: str = "") -> list[int]:
        """Tokens of the prompt for a history of item numbers, for a query in neutral words, or for both."""
        codes, ids, note = self.catalogue.code_texts, self.catalogue.item_ids, self._note
        pieces = {"history": [(codes[item], "history", ids[item]) for item in seen[-note.history :]]}
        wordings = [note.prompt]
        if query:
            pieces["intention"] = [(query, "intention", "")]
            wordings = [note.search_history, note.search] if seen else [note.search, note.search_history]
        return encode(self._tokenizer, fill(next(filter(None, wordings)), pieces)[0])

    @staticmethod
    def _mixed(blend: Blend, found: Found, seen: list[int], allowed: Filter | None) -> Found:
        """What a search found, with a teacher's expectations; as many items."""
        begin = time.perf_counter()
        one = blend(Ranked(found.items[None], found.scores[None]), [seen], [allowed], len(found.items))
        return Found(one.items[0], one.scores[0], found.waited, found.ranked + time.perf_counter() - begin)

    def _check(self, ask: Ask) -> None:
        """Limits, and fields that exclude one another."""
        limits, items = self.limits, len(self.catalogue.item_ids)
        if (ask.history is None) == (ask.user is None):
            raise Refused(422, "say for whom: either `history` or `user`.", "history")
        if ask.k > (most := min(limits.k, items)):
            raise Refused(422, f"k is {str(ask.k)[:20]}, but at most {most} items are given at a time.", "k")
        for name, listed, most in (
            ("history", ask.history, limits.history),
            ("allow", ask.allow, limits.listed),
            ("deny", ask.deny, limits.listed),
        ):
            if listed is not None and len(listed) > most:
                raise Refused(422, f"`{name}` lists {len(listed)} items, and {most} are the most: send fewer.", name)
        self._check_query(ask.query)

    def _check_query(self, query: str | None) -> None:
        if query is None:
            return
        if len(query) > self.limits.query:
            raise Refused(422, f"`query` has more than {self.limits.query} characters: shorten it.", "query")
        if not self.takes_queries:
            raise Refused(
                422,
                "this model was not trained with queries, and words that it never saw would only disturb it. Leave "
                "`query` out and narrow the items down by `category` or `allow`, or train with the task `item_search`.",
                "query",
            )

    def _wanted(self, ask: Ask) -> _Wanted:
        history = self.users.history(ask.user) if ask.user is not None else ask.history or []
        seen, unknown = self._numbers(history, "history")
        denied, more = self._numbers(ask.deny, None)
        allowed, others = self._numbers(ask.allow, "allow") if ask.allow is not None else (None, [])
        excluded = self._note.exclude_seen if ask.exclude_seen is None else ask.exclude_seen
        hidden = np.unique(np.array([*denied, *(seen if excluded else ())], np.int64))
        only = None if allowed is None else np.unique(np.array(allowed, np.int64))
        category, query = self._categories.wanted(ask.category), neutral(plain(ask.query))
        return _Wanted(seen, hidden, only, category, [*unknown, *more, *others], query)

    def _numbers(self, ids: Sequence[str], fatal: str | None) -> tuple[list[int], list[str]]:
        """Item numbers of known ids, and the unknown ids; where all are unknown and that is fatal, a refusal."""
        known = self.catalogue.item_number
        unknown = [one for one in ids if one not in known]
        if fatal and unknown and len(unknown) == len(ids):
            shown = ", ".join(f"'{one[:64]}'" for one in unknown[:5]) + ("…" if len(unknown) > 5 else "")
            raise Refused(422, f"the catalogue has no item of `{fatal}`: {shown}", fatal)
        return [known[one] for one in ids if one in known], unknown

    def _width(self, k: int) -> int:
        """Beams of the search: the same for all small k, so that requests of different k share a batch."""
        return min(max(k, self.limits.beams or self._note.beams), len(self.catalogue.item_ids))

    def _by_popularity(self, wanted: _Wanted, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The items that most users have, ties in the order of the catalogue; scores are log-shares of all users."""
        if not len(self._popular):
            raise Refused(
                422,
                "the history is empty, and this model was served without data to tell popular items from.",
                "history",
            )
        items = np.argsort(-self._popular, kind="stable")
        items = items[wanted.offered(items) & (self._popular[items] > 0)][:k]
        return items, np.log(self._popular[items] / max(1, self._popular.sum()))

    def _real(self, items: np.ndarray, scores: np.ndarray, wanted: _Wanted) -> tuple[np.ndarray, np.ndarray]:
        """What may be given. The search gives nothing else; what it gave all the same is counted, never shown."""
        given = items >= 0
        items, scores = items[given], scores[given]
        fine = (items < len(self.catalogue.item_ids)) & wanted.offered(np.minimum(items, len(self.catalogue.codes) - 1))
        first = np.zeros(len(items), bool)
        first[np.unique(items, return_index=True)[1]] = True
        self._invalid += int((~(fine & first)).sum())
        return items[fine & first], scores[fine & first]

    def _shown(self, items: np.ndarray, scores: np.ndarray) -> list[Item]:
        ids, titles = self.catalogue.item_ids, self.catalogue.titles
        share = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
        share = share / share.sum() if len(share) else share
        rows = zip(items.tolist(), scores.tolist(), share.tolist(), strict=True)
        return [Item(item_id=ids[at], title=titles[at], score=score, share=part) for at, score, part in rows]

    def _notes(self, ask: Ask, wanted: _Wanted, given: int) -> list[str]:
        notes = []
        if not wanted.for_model:
            notes.append("the history is empty, so these are the items that most users have")
        elif len(wanted.seen) > self._note.history:
            notes.append(f"the model read the newest {self._note.history} of {len(wanted.seen)} items of the history")
        if wanted.seen and wanted.query and not self._note.search_history:
            notes.append("the model read the query alone: it was not trained to read one after a history")
        if wanted.unknown:
            notes.append(f"{len(wanted.unknown)} item(s) of the request are not in the catalogue and were left out")
        if given < ask.k:
            notes.append(f"the filters leave {given} of the {ask.k} items wanted")
        return notes
