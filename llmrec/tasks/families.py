"""The tasks: what one example of each is about, and what it puts on offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmrec.recipe import TASKS, Tasks
from llmrec.tasks.cases import Cases, by_event, by_item, by_user, by_window
from llmrec.tasks.source import Source


@dataclass(frozen=True)
class Family:
    """How the examples of a task come about.

    Attributes:
        cases: what one example is about: a window or an event of a history, a user, an item.
        offers: items on offer, one of `offers.OFFERS`.
        places: how many stand on offer, from the recipe.
    """

    cases: Callable[[Source, int, int, Tasks, int], Cases]
    offers: str = "none"
    places: Callable[[Tasks], int] = lambda tasks: 1


FAMILIES = {
    "next_item": Family(by_window),
    "sequential": Family(by_window),
    "straightforward": Family(by_window),
    "fused": Family(by_window),
    "item_to_text": Family(by_item),
    "text_to_item": Family(by_item),
    "item_search": Family(by_window),
    "preference": Family(by_user),
    "rating": Family(by_event),
    "explanation": Family(by_event),
    "review_summary": Family(by_event),
    "review_title": Family(by_event),
    "review_rating": Family(by_event),
    "direct_pick": Family(by_window, "pick", lambda tasks: tasks.candidates),
    "direct_yes_no": Family(by_window, "verdict"),
    "rerank": Family(by_window, "letters", lambda tasks: tasks.options),
    "pairwise": Family(by_window, "pair", lambda tasks: 2),
    "pointwise": Family(by_window, "verdict"),
    "chat": Family(by_window),
}
assert set(FAMILIES) == set(TASKS)
