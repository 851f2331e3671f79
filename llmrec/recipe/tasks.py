"""`tasks`: the mixture of prompts that a model is trained on."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmrec.recipe.part import Float, Int, Part, Positive

TemplateChoice = Positive | Literal["shortest"] | None
Weight = Annotated[Float, Field(ge=0)]


class Oracle(Part):
    """Source of the texts that some tasks need and data sets lack: user intentions and preferences."""

    NOT_HASHED: ClassVar[frozenset[str]] = frozenset({"cache", "url"})
    by: Literal["template", "replay", "server"] = Field(
        "template",
        description="template: from the item's columns; replay: from the cache only; server: OpenAI-compatible",
    )
    cache: str | None = Field(None, description="JSONL file of answers; replay reads it, server appends to it")
    url: str | None = Field(None, description="server: its address, such as http://localhost:8000/v1")
    model: str | None = Field(None, description="server: model name")

    @model_validator(mode="after")
    def _is_reachable(self) -> Oracle:
        if self.by != "template" and not self.cache:
            raise ValueError(f"by: {self.by} needs `cache`, a JSONL file")
        if self.by == "server" and not (self.url and self.model):
            raise ValueError("by: server needs `url` and `model`")
        return self


# The tasks of a mixture have weight 1; a weight given in the recipe replaces it.
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
    """Prompts that the model is trained on: a mixture, and the weights of single tasks."""

    mixture: Literal["alignment", "lc-rec", "p5", "openp5", "judge", "none"] = Field(
        "alignment", description="tasks with weight 1, unless given below; none: only the tasks given below"
    )
    next_item: Weight = Field(0, description="history → code; weight 1: every history window once")
    sequential: Weight = Field(0, description="user and history → code, varied templates; per window")
    straightforward: Weight = Field(0, description="user → code, no history; per window")
    fused: Weight = Field(0, description="codes → title or text, titles → code; per window")
    item_to_text: Weight = Field(0, description="code → text; weight 1: every item once")
    text_to_item: Weight = Field(0, description="text → code; per item")
    item_search: Weight = Field(0, description="user intention, with or without history → code; per window")
    preference: Weight = Field(0, description="history → preference as text; weight 1: every user once")
    rating: Weight = Field(0, description="user and item → stars; weight 1: every rated event once")
    explanation: Weight = Field(0, description="user and item → explanation; per event that has one")
    review_summary: Weight = Field(0, description="review → one sentence; per event with a review")
    review_title: Weight = Field(0, description="review → headline; per event with a review")
    review_rating: Weight = Field(0, description="review → stars; per event with a review")
    direct_pick: Weight = Field(0, description="user and `candidates` codes → one of them; per window")
    direct_yes_no: Weight = Field(0, description="user and item → yes or no; per window")
    rerank: Weight = Field(0, description="history and `options` candidates → letter; per window")
    pairwise: Weight = Field(0, description="history and two candidates → letter; per window")
    pointwise: Weight = Field(0, description="history and item → yes or no; per window")
    chat: Weight = Field(0, description="dialogue → reply with <|item|> and a code in it; per window")
    templates: TemplateChoice = Field(
        None, description="prompt templates per task: the first N, or the shortest one; none: all"
    )
    max_examples: dict[str, Positive] = Field({}, description="task → most examples; a seeded sample is kept")
    history: Positive = Field(20, description="most items in a prompt's history; the newest are kept")
    history_tokens: Positive | None = Field(
        None, description="most tokens of a history: one per code level; of titles, three bytes count as a token"
    )
    loss_on: Literal["all-items", "target"] = Field(
        "all-items", description="next_item: predict every item of the history, or only the target"
    )
    positions: Literal["windows", "all"] = Field(
        "windows", description="targets: the last event of every window, or every event"
    )
    passes: Positive = Field(1, description="times each event is seen per epoch; each pass shifts the windows")
    candidates: Annotated[Int, Field(ge=2)] = Field(100, description="direct_pick: candidate codes, target included")
    options: Annotated[Int, Field(ge=2, le=26)] = Field(20, description="rerank: lettered candidates, target included")
    negatives: Literal["uniform", "popularity"] = Field("uniform", description="sampling of wrong candidates")
    oracle: Oracle | None = Field(
        None, description="writes user intentions and preferences; tasks that need them are skipped without"
    )

    @model_validator(mode="before")
    @classmethod
    def _add_mixture(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return dict.fromkeys(MIXTURES.get(str(values.get("mixture", "alignment")), ()), 1.0) | values

    @model_validator(mode="after")
    def _check_max_examples(self) -> Tasks:
        for name in self.max_examples:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, 1, 0.4)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"max_examples: there is no task '{name}'" + hint)
        return self

    @property
    def recommending(self) -> str | None:
        """The trained task whose prompt evaluation and serving use; None if no task predicts an item from a history."""
        return next((task for task in RECOMMENDING if getattr(self, task)), None)

    @property
    def choices(self) -> list[str]:
        """The trained tasks with few possible answers; the model is evaluated on each."""
        return [task for task in CHOICES if getattr(self, task)]

    @property
    def weights(self) -> dict[str, float]:
        """Task → weight, without tasks of weight 0."""
        return {name: getattr(self, name) for name in TASKS if getattr(self, name)}


RECOMMENDING = ("next_item", "sequential")
"""Tasks whose answer is any item of the catalogue, given a history."""
CHOICES = ("rerank", "pairwise", "pointwise", "direct_pick", "direct_yes_no", "rating")
"""Tasks with few possible answers: a letter, yes or no, one of the candidate codes, stars."""
TASKS = tuple(name for name, field in Tasks.model_fields.items() if field.annotation is float)
