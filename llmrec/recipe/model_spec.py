"""A collaborative model in a recipe: its name, its parameters, and what tables and folders call it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from llmrec.recipe.part import Part


class ModelSpec(Part):
    """A collaborative model that a recipe asks for: which one, and its parameters.

    Attributes:
        kind: the model's name in recipes.
    """

    kind: ClassVar[str]

    @property
    def parts(self) -> dict[str, ModelSpec]:
        """Models that this one is composed of, by their role; each is fitted and saved on its own, and shared."""
        return {}

    @property
    def parameters(self) -> dict[str, Any]:
        """All that decides what is learnt; not `device`, which only decides where."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "device"}

    @property
    def name(self) -> str:
        """What tables call it: `sasrec`, or `sasrec (layers 3, dropout 0.3)` where parameters differ."""
        changed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self._changed.items())
        return f"{self.kind} ({changed})" if changed else self.kind

    @property
    def slug(self) -> str:
        """A folder's name, the same for the same kind and parameters."""
        return "-".join([self.kind, *(f"{key}-{value}" for key, value in self._changed.items())])

    @property
    def _changed(self) -> dict[str, str]:
        """Parameters that are not at their defaults, as text."""
        fields = type(self).model_fields
        changed = {key: value for key, value in self.parameters.items() if value != fields[key].default}
        return {key: str(value).removesuffix(".0") for key, value in changed.items()}

    @model_validator(mode="before")
    @classmethod
    def _from_entry(cls, value: Any) -> Any:
        """Accept the entry as a recipe has it: the name alone, or the name with its parameters."""
        if value == cls.kind:
            return {}
        if not isinstance(value, dict) or set(value) != {cls.kind}:
            return value
        parameters = {} if value[cls.kind] is None else value[cls.kind]
        if not isinstance(parameters, dict):
            raise ValueError(f"write its parameters as a mapping: {{{cls.kind}: {{name: value}}}}")
        return parameters

    @model_serializer(mode="wrap")
    def _as_entry(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Write the entry as a recipe has it, without parameters at their defaults."""
        fields = type(self).model_fields
        given = {key: value for key, value in handler(self).items() if getattr(self, key) != fields[key].default}
        return {self.kind: given} if given else self.kind

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        parameters = handler(schema)
        entry = {"type": "object", "properties": {cls.kind: parameters}, "required": [cls.kind]}
        return {"anyOf": [{"const": cls.kind}, entry | {"additionalProperties": False}]}
