"""`model`, `launch`, `evaluate` and `chat`: which model learns, where, how it is judged, who finds words of a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmrec.recipe import collaborative as models
from llmrec.recipe.collaborative import CollaborativeSpec
from llmrec.recipe.part import Adapt, Int, Metric, Part, Positive, Share


class Model(Part):
    """The language model that is trained."""

    NOT_HASHED: ClassVar[frozenset[str]] = frozenset({"init_from"})
    base: str = Field("nano", description="nano (from scratch), embedded:NAME, a folder, or a hub name")
    vocabulary: Annotated[Int, Field(ge=300)] = Field(2000, description="nano: vocabulary size of its own tokenizer")
    width: Positive = Field(128, description="nano: hidden size")
    layers: Positive = Field(4, description="nano: decoder layers")
    heads: Positive = Field(4, description="nano: attention heads; width / heads is 32 or 64")
    dropout: Share = Field(0.1, description="nano: dropout while training")
    adapt: Adapt = Field("full", description="what is trained; the embedding rows of item tokens always are")
    rank: Positive = Field(16, description="lora, qlora: rank of the adapters")
    init_tokens: Literal["mean", "text", "centroids", "vectors", "random"] = Field(
        "mean",
        description="initial embedding rows of item tokens: near the mean row of the base, from the texts of their "
        "items, from the codebooks, from the quantized vectors, or random",
    )
    base_embeddings: Literal["frozen", "trained"] = Field(
        "frozen", description="adapt: full — embedding rows of the base's own tokens; nano always trains all rows"
    )
    init_from: str | None = Field(
        None, description="a run folder: start from its trained model and keep its codes (weekly refresh)"
    )
    tiny: bool = Field(
        False, description="two layers of the base's family with random weights, no download (set by --tiny)"
    )

    def hashed_fields(self) -> dict[str, Any]:
        """See `Part.hashed_fields`; a base folder counts by its name only, because its content is hashed."""
        return super().hashed_fields() | ({"base": Path(self.base).name} if Path(self.base).is_absolute() else {})

    @property
    def name(self) -> str:
        """Short name of the model for tables."""
        return self.base.rsplit("/", 1)[-1].removeprefix("embedded:")

    @model_validator(mode="after")
    def _nano_fits(self) -> Model:
        if self.base == "nano" and (self.width % self.heads or self.width // self.heads not in (32, 64)):
            raise ValueError(
                f"width / heads must be 32 or 64 so that vLLM can serve the model, not {self.width} / {self.heads}"
            )
        if self.base == "nano" and self.adapt != "full":
            raise ValueError(f"adapt: {self.adapt} needs a pretrained base; nano is trained from scratch (adapt: full)")
        if self.base == "nano" and self.init_tokens not in ("mean", "vectors"):
            raise ValueError(f"init_tokens: {self.init_tokens} needs a pretrained base; nano takes mean or vectors")
        return self


class Launch(Part):
    """Processes and nodes of training. No key here changes the result of a stage, so a change reruns nothing."""

    processes: Positive = Field(1, description="number of processes over all nodes, one per GPU")
    strategy: Literal["ddp", "fsdp", "deepspeed-zero2", "deepspeed-zero3"] = "ddp"
    nodes: Positive = Field(1, description="number of machines")
    node_rank: Annotated[Int, Field(ge=0)] = Field(0, description="number of this machine, from 0; node 0 writes files")
    master_addr: str | None = Field(None, description="host name or IP of node 0")
    master_port: Annotated[Int, Field(ge=1, le=65535)] = Field(29500, description="port of node 0, used if nodes > 1")
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] | None = Field(
        None, description="experiment trackers; null: TensorBoard if it is installed, []: none"
    )

    @property
    def single_process(self) -> bool:
        """Whether training runs in the process that reads the recipe."""
        return self.processes == 1 and self.strategy == "ddp"

    @model_validator(mode="after")
    def _nodes_fit(self) -> Launch:
        if self.processes % self.nodes:
            raise ValueError(f"processes: {self.processes} do not divide over nodes: {self.nodes}")
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank: {self.node_rank} must be below nodes: {self.nodes}; the first node is 0")
        if self.nodes > 1 and not self.master_addr:
            raise ValueError(f"nodes: {self.nodes} need master_addr, the host name or IP of node 0")
        return self


class EnsembleSpec(Part):
    """A collaborative model mixed in: items are ranked by the weighted mean of both models' probabilities."""

    model: CollaborativeSpec = models.MarkovEaseSpec()
    weight: Share = Field(0.2, description="of the collaborative model; the language model has the rest")


class Evaluate(Part):
    """Evaluation: every held-out event is ranked against the whole catalogue."""

    NOT_HASHED: ClassVar[frozenset[str]] = frozenset({"batch"})
    ranking: Annotated[list[Metric], Field(min_length=1)] = Field(
        ["hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20"]
    )
    split: Literal["test", "valid"] = Field(
        "test", description="evaluated part; after valid, `llmrec evaluate --test` opens test and adds it to the ledger"
    )
    beams: Positive = 50
    batch: Positive = 32
    exclude_seen: bool = True
    template: Literal["trained", "held-out"] = Field(
        "trained", description="prompt template: the first of training, as served, or one kept out of training"
    )
    baselines: list[CollaborativeSpec] = Field(
        [models.PopularitySpec(), models.EaseSpec(), models.EaseRecentSpec(), models.MarkovSpec()],
        description="collaborative models to compare with: names, or {name: {parameter: value}}",
    )
    category_column: str | None = Field(None, description="item column that diversity is measured by")
    generation: list[Literal["explanation", "review_summary", "review_title", "review_rating"]] = Field(
        [], description="text tasks to evaluate on held-out reviews (BLEU, ROUGE, RMSE)"
    )
    generation_cases: Positive = Field(
        500, description="most held-out events per task of `generation`, and per task with few possible answers"
    )
    ensemble: EnsembleSpec | None = Field(
        None, description="mix a collaborative model in, here and wherever the run is loaded or served"
    )
    weight_column: str | None = Field(None, description="item column, such as price, to weight hits by")

    @model_validator(mode="after")
    def _check_beams(self) -> Evaluate:
        deepest = max(int(metric.split("@")[1]) for metric in self.ranking)
        if self.beams < deepest:
            raise ValueError(f"beams: {self.beams} cannot rank the {deepest} items that `ranking` needs")
        return self


class Chat(Part):
    """Words around recommended items; the items themselves always come from constrained decoding."""

    by: Literal["template", "server", "model"] = Field(
        "template",
        description="template: sentences of prompts/replies.yaml; server: any OpenAI-compatible model; "
        "model: the served model in its chat mode (trained with tasks.chat, served by vLLM)",
    )
    url: str | None = Field(None, description="server: such as http://localhost:8000/v1; its key is OPENAI_API_KEY")
    model: str | None = Field(None, description="server: its name for the model")

    @model_validator(mode="after")
    def _is_reachable(self) -> Chat:
        if self.by == "server" and not (self.url and self.model):
            raise ValueError("by: server needs `url` and `model`")
        return self
