"""What all parts of a recipe are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST = 10**9
"""The largest number of a recipe; products of two still fit in 64 bits."""
Int = Annotated[int, Field(le=MOST)]
Float = Annotated[float, Field(le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[Int, Field(ge=1)]
Share = Annotated[Float, Field(ge=0, le=1)]
Adapt = Literal["full", "lora", "qlora", "embeddings-only"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr|recall|precision|map)@[1-9][0-9]{0,8}$")]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused, and numbers that are none (.nan, .inf)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is wanted: pydantic would take them for 1 and 0."""
        members = value if isinstance(value, dict) else {"": value}
        switch = next((name for name, one in members.items() if isinstance(one, bool)), None)
        if switch is not None and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"{switch}: should be a number, not {str(members[switch]).lower()}".removeprefix(": "))
        return value


def _is_number(kind: Any) -> bool:
    """Whether a type is a number, or a union or a mapping with one in it."""
    return kind in (int, float) or any(map(_is_number, get_args(kind)))
