"""`tasks`: which prompts a model learns from."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmrec.recipe.part import Float, Int, Part, Positive

Wordings = Positive | Literal["shortest"] | None
Weight = Annotated[Float, Field(ge=0)]


class Oracle(Part):
    """Who writes the words that tasks need and the data lack (intentions, preferences): `text/`."""

    NOT_HASHED: ClassVar[frozenset[str]] = frozenset({"cache", "url"})
    by: Literal["template", "replay", "server"] = Field(
        "template", description="template: from the item's fields; replay: only the cache; server: OpenAI-compatible"
    )
    cache: str | None = Field(None, description="JSONL file of answers, by content; replay reads it, server adds to it")
    url: str | None = Field(None, description="server: such as http://localhost:8000/v1")
    model: str | None = Field(None, description="server: its name for the model")

    @model_validator(mode="after")
    def _is_reachable(self) -> Oracle:
        if self.by != "template" and not self.cache:
            raise ValueError(f"by: {self.by} needs `cache`, a JSONL file")
        if self.by == "server" and not (self.url and self.model):
            raise ValueError("by: server needs `url` and `model`")
        return self


# What a mixture gives weight 1; a task named beside it in a recipe takes the weight given there.
MIXTURES: dict[str, tuple[str, ...]] = {
    "alignment": ("next_item", "item_to_text", "text_to_item"),
    "lc-rec": ("next_item", "item_to_text", "text_to_item", "fused", "item_search", "preference"),
    "p5": (
        *("rating", "sequential", "explanation", "review_summary", "review_title", "review_rating"),
        *("direct_pick", "direct_yes_no"),
    ),
    "openp5": ("sequential", "straightforward"),
    "judge": ("rerank", "pairwise", "pointwise"),
}


class Tasks(Part):
    """Which prompts the model learns from: a mixture, and weights of tasks that differ from it."""

    mixture: Literal["alignment", "lc-rec", "p5", "openp5", "judge", "none"] = Field(
        "alignment", description="tasks that have weight 1 unless they are named here; none: only those named"
    )
    next_item: Weight = Field(0, description="history → code; weight 1: every window of every history once")
    sequential: Weight = Field(0, description="user and history → code, wordings in any order; by window")
    straightforward: Weight = Field(0, description="user → code, without a history; by window")
    fused: Weight = Field(0, description="codes → title or text, titles → code; by window")
    item_to_text: Weight = Field(0, description="code → text; weight 1: every item once")
    text_to_item: Weight = Field(0, description="text → code; by item")
    item_search: Weight = Field(0, description="intention, with or without a history → code; by window")
    preference: Weight = Field(0, description="history → preference in words; weight 1: every user once")
    rating: Weight = Field(0, description="user and item → stars; weight 1: every rated event once")
    explanation: Weight = Field(0, description="user and item → why; by explained event")
    review_summary: Weight = Field(0, description="review → one sentence; by reviewed event")
    review_title: Weight = Field(0, description="review → headline; by reviewed event")
    review_rating: Weight = Field(0, description="review → stars; by reviewed event")
    direct_pick: Weight = Field(0, description="user, `candidates` codes → one of them; by window")
    direct_yes_no: Weight = Field(0, description="user and item → would they choose it; by window")
    rerank: Weight = Field(0, description="history, `letters` candidates → letter; by window")
    pairwise: Weight = Field(0, description="history, two candidates → letter; by window")
    pointwise: Weight = Field(0, description="history and item → yes or no; by window")
    chat: Weight = Field(0, description="a talk → words with <|item|> and a code in them; by window")
    wordings: Wordings = Field(
        None, description="how many wordings of a task are trained on, its first, or its shortest one; all otherwise"
    )
    caps: dict[str, Positive] = Field({}, description="task → examples at most, a seeded sample of them")
    history: Positive = Field(20, description="items of a history that a prompt holds, newest kept")
    history_tokens: Positive | None = Field(
        None, description="tokens that they may take: one a code level; text counts three bytes a token"
    )
    supervise: Literal["history", "answer"] = "history"
    positions: Literal["windows", "all"] = Field(
        "windows", description="answers: the last event of every window, or every event with what came before it"
    )
    windows: Positive = Field(1, description="how often each event is seen per pass, from windows cut elsewhere")
    candidates: Annotated[Int, Field(ge=2)] = Field(100, description="direct_pick: codes on offer, the right one too")
    letters: Annotated[Int, Field(ge=2, le=26)] = Field(20, description="rerank: candidates behind letters")
    negatives: Literal["uniform", "popularity"] = Field("uniform", description="how wrong candidates are drawn")
    oracle: Oracle | None = Field(None, description="who writes intentions and preferences; such tasks rest without")

    @model_validator(mode="before")
    @classmethod
    def _mix(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return dict.fromkeys(MIXTURES.get(str(values.get("mixture", "alignment")), ()), 1.0) | values

    @model_validator(mode="after")
    def _caps_are_of_tasks(self) -> Tasks:
        for name in self.caps:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, 1, 0.4)
                raise ValueError(f"caps: there is no task '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        return self

    @property
    def recommending(self) -> str | None:
        """The trained task whose prompt a model is judged and served with; None where no task goes history → item."""
        return next((task for task in RECOMMENDING if getattr(self, task)), None)

    @property
    def choices(self) -> list[str]:
        """The trained tasks with few possible answers; a model is judged by each of them."""
        return [task for task in CHOICES if getattr(self, task)]

    @property
    def weights(self) -> dict[str, float]:
        """Task → weight, of the tasks that have one."""
        return {name: getattr(self, name) for name in TASKS if getattr(self, name)}


RECOMMENDING = ("next_item", "sequential")
"""Tasks that answer a history with an item of the whole catalogue."""
CHOICES = ("rerank", "pairwise", "pointwise", "direct_pick", "direct_yes_no", "rating")
"""Tasks whose answer is one of a few: a letter, yes or no, one of the codes on offer, stars."""
TASKS = tuple(name for name, field in Tasks.model_fields.items() if field.annotation is float)
