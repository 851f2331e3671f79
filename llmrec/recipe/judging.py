"""`evaluate`: how recommendations are judged."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmrec.recipe.collaborative import (
    CollaborativeSpec,
    EaseRecentSpec,
    EaseSpec,
    MarkovEaseSpec,
    MarkovSpec,
    PopularitySpec,
)
from llmrec.recipe.part import Metric, Part, Positive, Share

Written = Literal["explanation", "review_summary", "review_title", "review_rating"]


class Mixed(Part):
    """A teacher beside the language model: both probabilities of an item are mixed, and decide where it stands."""

    teacher: CollaborativeSpec = MarkovEaseSpec()
    share: Share = Field(0.2, description="of the teacher's chances in the mixture")


class Evaluate(Part):
    """How recommendations are judged: whole catalogue, every test user, item level."""

    HOW: ClassVar[frozenset[str]] = frozenset({"batch"})
    ranking: Annotated[list[Metric], Field(min_length=1)] = Field(
        ["hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20"]
    )
    target: Literal["test", "valid"] = Field(
        "test",
        description="the part judged; after valid, test opens by `llmrec evaluate --test`, which is written down",
    )
    beams: Positive = 50
    batch: Positive = 32
    exclude_seen: bool = True
    wording: Literal["trained", "held-out"] = Field(
        "trained", description="prompt as served, with the first wording of training, or with one it never saw"
    )
    baselines: list[CollaborativeSpec] = Field(
        [PopularitySpec(), EaseSpec(), EaseRecentSpec(), MarkovSpec()],
        description="collaborative models that are judged beside: names, or {name: {parameter: value}}",
    )
    category: str | None = Field(None, description="column of items by which the variety of a list is judged")
    writing: list[Written] = Field([], description="tasks whose answers in words are judged too, on held-out reviews")
    writing_cases: Positive = Field(
        500, description="held-out events, at most, of each task of `writing` or with few possible answers"
    )
    blend: Mixed | None = Field(
        None, description="a teacher mixed into the model's lists, here and wherever the run is loaded or served"
    )
    worth: str | None = Field(None, description="column of items, such as price, to weigh hits by")

    @model_validator(mode="after")
    def _beams_reach(self) -> Evaluate:
        deepest = max(int(metric.split("@")[1]) for metric in self.ranking)
        if self.beams < deepest:
            raise ValueError(f"beams: {self.beams} cannot rank the {deepest} items that `ranking` asks for")
        return self
