"""What all parts of a recipe are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST = 10**9
"""The largest number of a recipe; products of two still fit in 64 bits."""


def _no_switch(value: Any) -> Any:
    """Refuse true and false where a number is wanted: pydantic would take them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


Int = Annotated[int, BeforeValidator(_no_switch), Field(le=MOST)]
Float = Annotated[float, BeforeValidator(_no_switch), Field(le=MOST)]
Seed = Annotated[int, BeforeValidator(_no_switch), Field(ge=0, le=2**63 - 1)]
Positive = Annotated[Int, Field(ge=1)]
Share = Annotated[Float, Field(ge=0, le=1)]
Baseline = Literal[
    "popularity", "item-knn", "ease", "ease-recent", "markov", "markov-ease", "bpr", "lightgcn", "sasrec"
]
Counted = Literal["popularity", "item-knn", "ease", "ease-recent", "markov", "markov-ease"]
"""Teachers whose scores are shares, so that their powers are chances; those of the others are logits."""
Adapt = Literal["full", "lora", "qlora", "embeddings-only"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr|recall|precision|map)@[1-9][0-9]{0,8}$")]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused, and numbers that are none (.nan, .inf)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)
