"""`model` and `launch`: which model learns, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmrec.recipe.part import Adapt, Int, Part, Positive, Share


class Model(Part):
    """The language model that is trained."""

    HOW: ClassVar[frozenset[str]] = frozenset({"start"})
    base: str = Field("nano", description="nano (from scratch), embedded:NAME, a folder, or a hub name")
    vocabulary: Annotated[Int, Field(ge=300)] = Field(2000, description="nano: pieces of its own tokenizer")
    width: Positive = Field(128, description="nano: hidden size")
    layers: Positive = Field(4, description="nano: decoder layers")
    heads: Positive = Field(4, description="nano: attention heads; width / heads is 32 or 64")
    dropout: Share = Field(0.1, description="nano: dropout while training")
    adapt: Adapt = Field("full", description="what is trained; but for full, that and the rows of item tokens alone")
    rank: Positive = Field(16, description="lora, qlora: rank of the adapters")
    init_tokens: Literal["mean", "text", "centroids", "vectors", "random"] = Field(
        "mean",
        description="where rows of item tokens start: near the mean of the base's, from the texts of their items, from "
        "the codebooks, from the vectors that were quantized, or anywhere",
    )
    old_rows: Literal["frozen", "trained"] = Field(
        "frozen", description="adapt: full — rows of the base's own tokens; nano has none, and trains them all"
    )
    start: str | None = Field(
        default=None, alias="from", description="a run folder: go on from its model, keeping its codes (weekly refresh)"
    )
    tiny: bool = Field(False, description="two layers of the base's family with random weights, no hub (set by --tiny)")

    def what(self) -> dict[str, Any]:
        """See `Part.what`; of a base that is a folder its name alone, since what it holds is hashed."""
        return super().what() | ({"base": Path(self.base).name} if Path(self.base).is_absolute() else {})

    @property
    def name(self) -> str:
        """What to call the model in tables."""
        return self.base.rsplit("/", 1)[-1].removeprefix("embedded:")

    @model_validator(mode="after")
    def _head_size(self) -> Model:
        if self.base == "nano" and (self.width % self.heads or self.width // self.heads not in (32, 64)):
            raise ValueError(
                f"width / heads must be 32 or 64 so that vLLM can serve the model, not {self.width} / {self.heads}"
            )
        return self

    @model_validator(mode="after")
    def _nano_has_no_base(self) -> Model:
        if self.base == "nano" and self.adapt != "full":
            raise ValueError(f"adapt: {self.adapt} needs a pretrained base; nano is trained from scratch (adapt: full)")
        if self.base == "nano" and self.init_tokens not in ("mean", "vectors"):
            raise ValueError(f"init_tokens: {self.init_tokens} needs a pretrained base; nano takes mean or vectors")
        return self


class Launch(Part):
    """Where and how training is carried out; nothing of it changes what a run makes, so nothing is redone for it."""

    processes: Positive = Field(1, description="over all machines, one a GPU")
    strategy: Literal["ddp", "fsdp", "deepspeed-zero2", "deepspeed-zero3"] = "ddp"
    machines: Positive = 1
    rank: Annotated[Int, Field(ge=0)] = Field(0, description="which machine this is, 0 for the one that writes")
    address: str | None = Field(None, description="of machine 0, as the others reach it")
    port: Annotated[Int, Field(ge=1, le=65535)] = Field(29500, description="on machine 0, where machines > 1")
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] | None = Field(
        None, description="trackers; TensorBoard where it is installed if nothing is said, [] for none"
    )

    @property
    def alone(self) -> bool:
        """Whether training needs no other process than the one that reads the recipe."""
        return self.processes == 1 and self.strategy == "ddp"

    @model_validator(mode="after")
    def _machines_fit(self) -> Launch:
        if self.processes % self.machines:
            raise ValueError(f"processes: {self.processes} do not divide over machines: {self.machines}")
        if self.rank >= self.machines:
            raise ValueError(f"rank: {self.rank} is no machine of {self.machines}: they are counted from 0")
        if self.machines > 1 and not self.address:
            raise ValueError("machines: several need `address`, the name or IP of machine 0")
        return self
