"""Collaborative models by name, with the parameters that a recipe may set.

An entry is a name, or one name with parameters: `ease`, `{sasrec: {layers: 3, dropout: 0.3}}`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from llmrec.recipe.part import Float, Int, Part, Positive, Seed, Share

Device = Literal["auto", "cpu", "cuda"]
Count = Annotated[Int, Field(ge=0)]
Gap = Annotated[Int, Field(ge=1, le=1000)]
NotNegative = Annotated[Float, Field(ge=0)]
AboveZero = Annotated[Float, Field(gt=0)]


class ModelSpec(Part):
    """A collaborative model of a recipe: its kind (the name in recipes) and its parameters."""

    kind: ClassVar[str]

    @property
    def parts(self) -> dict[str, ModelSpec]:
        """Models that this one combines, by role; each is fitted and saved once, and shared with others."""
        return {}

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters that decide the result: all but `device`."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "device"}

    def hashed_fields(self) -> dict[str, Any]:
        """Its name and all parameters that decide what is learnt."""
        return {self.kind: self.parameters}

    @property
    def name(self) -> str:
        """The name in tables: `sasrec`, or `sasrec (layers 3, dropout 0.3)` where parameters are not the defaults."""
        changed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self._changed.items())
        return f"{self.kind} ({changed})" if changed else self.kind

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return "-".join([self.kind, *(f"{key}-{value}" for key, value in self._changed.items())])

    @property
    def _changed(self) -> dict[str, str]:
        """Parameters that are not the defaults, as text."""
        fields = type(self).model_fields
        changed = {key: value for key, value in self.parameters.items() if value != fields[key].default}
        return {key: str(value).removesuffix(".0") for key, value in changed.items()}

    @model_validator(mode="before")
    @classmethod
    def _from_entry(cls, value: Any) -> Any:
        """Accept both forms of an entry: the name alone, or the name with its parameters."""
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
        """Write the shorter form of the entry, without parameters that are the defaults."""
        fields = type(self).model_fields
        changed = {key: value for key, value in handler(self).items() if getattr(self, key) != fields[key].default}
        return {self.kind: changed} if changed else self.kind

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        parameters = handler(schema)
        entry = {"type": "object", "properties": {cls.kind: parameters}, "required": [cls.kind]}
        return {"anyOf": [{"const": cls.kind}, entry | {"additionalProperties": False}]}


class PopularitySpec(ModelSpec):
    """Number of users of each item."""

    kind = "popularity"


class ItemKnnSpec(ModelSpec):
    """Cosines between items."""

    kind = "item-knn"
    neighbours: Positive = Field(100, description="nearest items of each item whose cosines are kept")
    shrink: NotNegative = Field(10.0, description="added to the denominator of every cosine, in users")


class EaseSpec(ModelSpec):
    """EASE on whole histories."""

    kind = "ease"
    l2: AboveZero = Field(200.0, description="ridge penalty, added to the diagonal of the co-occurrence counts")


class EaseRecentSpec(ModelSpec):
    """EASE on the last items of a history."""

    kind = "ease-recent"
    l2: AboveZero = Field(200.0, description="ridge penalty, as of `ease`")
    decay: Share = Field(0.85, description="weight of an item to the power of the number of later items")
    window: Positive = Field(20, description="last items of a history that count")

    @property
    def parts(self) -> dict[str, ModelSpec]:
        return {"ease": EaseSpec(l2=self.l2)}


class MarkovSpec(ModelSpec):
    """Transitions from the last two items."""

    kind = "markov"
    max_gap: Gap = Field(3, description="largest distance of two events that counts as a transition")
    fade: NotNegative = Field(0.5, description="weight of the second last item; the last has 1")


class MarkovEaseSpec(EaseRecentSpec, MarkovSpec):
    """The sum of Markov and EASE on recent items."""

    kind = "markov-ease"

    @property
    def parts(self) -> dict[str, ModelSpec]:
        recent = EaseRecentSpec(l2=self.l2, decay=self.decay, window=self.window)
        return {"markov": MarkovSpec(max_gap=self.max_gap, fade=self.fade), "recent": recent}


class TrainedSpec(ModelSpec):
    """Parameters of all models that are trained by gradients."""

    learning_rate: AboveZero = 5e-3
    seed: Seed = 0
    device: Device = Field("auto", description="auto: a GPU where there is one")
    width: Positive = Field(64, description="dimensions of a vector")


class BprSpec(TrainedSpec):
    """Matrix factorisation with a pairwise loss."""

    kind = "bpr"
    epochs: Count = 40
    batch: Positive = Field(2048, description="triples a step")
    l2: NotNegative = Field(1e-2, description="penalty on the squared norms of a triple's vectors")


class LightGcnSpec(TrainedSpec):
    """Vectors averaged over the graph of users and items."""

    kind = "lightgcn"
    layers: Annotated[Int, Field(ge=1, le=16)] = Field(3, description="steps along the graph")
    epochs: Count = 40
    batch: Positive = Field(4096, description="triples a step")
    l2: NotNegative = Field(1e-4, description="penalty on the squared norms of a triple's first vectors")


class SasRecSpec(TrainedSpec):
    """A causal transformer over item vectors."""

    kind = "sasrec"
    width: Positive = Field(128, description="dimensions of a vector")
    layers: Annotated[Int, Field(ge=1, le=64)] = 2
    heads: Positive = 2
    window: Positive = Field(50, description="last items of a history that are read")
    epochs: Count = 60
    batch: Positive = Field(256, description="histories a step")
    learning_rate: AboveZero = Field(2e-3, description="the highest; it rises for 5 % of the steps, then falls")
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.5
    weight_decay: NotNegative = 0.05

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SasRecSpec:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} does not divide by heads: {self.heads}")
        return self


SPECS: dict[str, type[ModelSpec]] = {
    spec.kind: spec
    for spec in (
        PopularitySpec,
        ItemKnnSpec,
        EaseSpec,
        EaseRecentSpec,
        MarkovSpec,
        MarkovEaseSpec,
        BprSpec,
        LightGcnSpec,
        SasRecSpec,
    )
}


def _check_entry(value: Any) -> Any:
    """Refuse an entry that is neither a name nor one name with its parameters."""
    if isinstance(value, str | ModelSpec) or (isinstance(value, dict) and len(value) == 1):
        return value
    raise ValueError("write the name of a collaborative model, or one name with its parameters: {sasrec: {layers: 3}}")


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, ModelSpec) else str(value if isinstance(value, str) else next(iter(value)))


CollaborativeSpec = Annotated[
    Annotated[PopularitySpec, Tag("popularity")]
    | Annotated[ItemKnnSpec, Tag("item-knn")]
    | Annotated[EaseSpec, Tag("ease")]
    | Annotated[EaseRecentSpec, Tag("ease-recent")]
    | Annotated[MarkovSpec, Tag("markov")]
    | Annotated[MarkovEaseSpec, Tag("markov-ease")]
    | Annotated[BprSpec, Tag("bpr")]
    | Annotated[LightGcnSpec, Tag("lightgcn")]
    | Annotated[SasRecSpec, Tag("sasrec")],
    Discriminator(_kind),
    BeforeValidator(_check_entry),
]
