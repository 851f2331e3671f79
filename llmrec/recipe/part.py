"""The base class and the number types of all parts of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST = 10**9
"""The largest number in a recipe; the product of two still fits in 64 bits."""
Int = Annotated[int, Field(le=MOST)]
Float = Annotated[float, Field(le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[Int, Field(ge=1)]
Share = Annotated[Float, Field(ge=0, le=1)]
Adapt = Literal["full", "lora", "qlora", "embeddings-only"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr|recall|precision|map)@[1-9][0-9]{0,8}$")]


class Part(BaseModel):
    """A part of a recipe. Unknown keys and the numbers .nan and .inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)
    NOT_HASHED: ClassVar[frozenset[str]] = frozenset()
    """Fields left out of a stage's hash, because they do not change its result: paths, batch sizes, devices."""

    def hashed_fields(self) -> dict[str, Any]:
        """Return the fields that change a result, as JSON values: all but `NOT_HASHED`, also of nested parts."""
        values = self.model_dump(mode="json", exclude=set(self.NOT_HASHED))
        return {name: _hashed_value(getattr(self, name, None), plain) for name, plain in values.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false in number fields: pydantic would convert them to 1 and 0."""
        members = value if isinstance(value, dict) else {"": value}
        name = next((name for name, member in members.items() if isinstance(member, bool)), None)
        if name is not None and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"{name}: should be a number, not {str(members[name]).lower()}".removeprefix(": "))
        return value


def _hashed_value(value: Any, plain: Any) -> Any:
    """Return `plain`, the JSON of a value, without the `NOT_HASHED` fields of parts in it."""
    if isinstance(value, list):
        return [_hashed_value(member, json) for member, json in zip(value, plain, strict=True)]
    return value.hashed_fields() if isinstance(value, Part) else plain


def _is_number(kind: Any) -> bool:
    """Whether a type is a number, or a union or a mapping that contains one."""
    return kind in (int, float) or any(map(_is_number, get_args(kind)))
