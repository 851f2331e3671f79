"""What all parts of a recipe are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Baseline = Literal[
    "popularity", "item-knn", "ease", "ease-recent", "markov", "markov-ease", "bpr", "lightgcn", "sasrec"
]
Counted = Literal["popularity", "item-knn", "ease", "ease-recent", "markov", "markov-ease"]
"""Teachers whose scores are shares, so that their powers are chances; those of the others are logits."""
Adapt = Literal["full", "lora", "qlora", "embeddings-only"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr|recall|precision|map)@[1-9]\d*$")]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
