"""Recipes: what a run can be told, as closed names with defaults. `recipe_file` reads them from YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Baseline = Literal["popularity", "ease", "ease-recent", "markov"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr)@[1-9]\d*$")]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Columns(Part):
    """How the columns of somebody's own files are called: our name → theirs."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    rating: str | None = None
    item_key: str | None = Field(None, description="the item file's id column, where it differs from item_id")
    title: str | None = Field(None, description="the item file's column to be called title")


class Data(Part):
    """Where interactions and items come from, how they are cleaned and split."""

    source: Literal["ml-100k", "ml-latest-small", "amazon-beauty-2014", "amazon-games-2018", "files"] = "ml-100k"
    interactions: str | None = Field(None, description="source: files — a CSV, TSV, JSONL or Parquet file")
    items: str | None = Field(None, description="source: files — a CSV, TSV, JSONL or Parquet file")
    columns: Columns = Columns()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="CSV: what stands between columns; seen in the header otherwise"
    )
    encoding: str | None = Field(None, description="of files that are not UTF-8; Windows-1252 otherwise")
    day_first: bool | None = Field(None, description="whether 3/4/2021 is in April; seen in the column otherwise")
    core: Annotated[int, Field(ge=0)] = Field(0, description="drop users and items with fewer events, repeatedly")
    max_users: Positive | None = Field(None, description="keep a seeded sample of the users")
    max_bad_rows: Annotated[int, Field(ge=0)] = Field(0, description="malformed rows to drop before giving up")
    split: Literal["leave-one-out"] = "leave-one-out"

    @model_validator(mode="after")
    def _files_are_named(self) -> Data:
        if self.source == "files" and not (self.interactions and self.items):
            raise ValueError("source: files needs both `interactions` and `items`, each the path of a file")
        return self


class Items(Part):
    """What text stands for an item, and which encoder turns it into a vector."""

    text: Annotated[list[str], Field(min_length=1)] = ["title"]
    encoder: Literal["minilm-l6", "hashing"] = "minilm-l6"
    missing_text: Literal["refuse", "item-id"] = Field("refuse", description="what to do with items that have no text")


class Indexing(Part):
    """How an item becomes a short code of tokens."""

    method: Literal["rq-kmeans"] = "rq-kmeans"
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    width: Annotated[int, Field(ge=2, le=65536)] = 256
    separate: Literal["last-level"] = "last-level"
    spares: Annotated[int, Field(ge=0)] = Field(
        8, description="unused tokens kept on the separating level for new items"
    )


class Tasks(Part):
    """Which prompts the model learns from."""

    next_item: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight: histories, once per window and epoch at 1"
    )
    item_to_text: Annotated[float, Field(ge=0)] = Field(1.0, description="weight: code → text, once per item at 1")
    text_to_item: Annotated[float, Field(ge=0)] = Field(1.0, description="weight: text → code, once per item at 1")
    history: Annotated[int, Field(ge=1)] = Field(20, description="items of a history that a prompt holds, newest kept")
    supervise: Literal["history", "answer"] = "history"
    windows: Positive = Field(1, description="how often each event is seen per pass, from windows cut elsewhere")


class Model(Part):
    """The language model that is trained."""

    base: str = Field("nano", description="nano (from scratch), embedded:NAME, a folder, or a hub name")
    vocabulary: Annotated[int, Field(ge=300)] = Field(2000, description="nano: pieces of its own tokenizer")
    width: Positive = Field(128, description="nano: hidden size")
    layers: Positive = Field(4, description="nano: decoder layers")
    heads: Positive = Field(4, description="nano: attention heads; width / heads is 32 or 64")
    dropout: Share = Field(0.1, description="nano: dropout while training")
    adapt: Literal["full", "lora"] = "full"
    rank: Positive = Field(16, description="lora: rank of the adapters")
    start: str | None = Field(
        default=None, alias="from", description="a run folder: go on from its model, keeping its codes (weekly refresh)"
    )
    tiny: bool = Field(False, description="two layers of the base's family with random weights, no hub (set by --tiny)")

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
        if self.base == "nano" and self.adapt != "full":
            raise ValueError("adapt: lora needs a pretrained base; nano is trained from scratch (adapt: full)")
        return self


class Sft(Part):
    """Supervised fine-tuning."""

    method: Literal["sft"] = "sft"
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch: Positive = Field(32, description="packed rows per step")
    row_tokens: Annotated[int, Field(ge=16)] | None = Field(
        None, description="tokens of a packed row; the window otherwise"
    )
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.05
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every: Positive = Field(200, description="steps between checkpoints")


class Evaluate(Part):
    """How recommendations are judged: whole catalogue, every test user, item level."""

    ranking: Annotated[list[Metric], Field(min_length=1)] = ["hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20"]
    beams: Positive = 50
    batch: Positive = 32
    exclude_seen: bool = True
    wording: Literal["trained", "held-out"] = Field(
        "held-out", description="prompt with a wording seen in training, or not"
    )
    baselines: list[Baseline] = ["popularity", "ease", "ease-recent", "markov"]

    @model_validator(mode="after")
    def _beams_reach(self) -> Evaluate:
        deepest = max(int(metric.split("@")[1]) for metric in self.ranking)
        if self.beams < deepest:
            raise ValueError(f"beams: {self.beams} cannot rank the {deepest} items that `ranking` asks for")
        return self


class Recipe(Part):
    """Everything a run does."""

    seed: Annotated[int, Field(ge=0)] = 42
    data: Data = Data()
    items: Items = Items()
    indexing: Indexing = Indexing()
    tasks: Tasks = Tasks()
    model: Model = Model()
    train: Annotated[list[Sft], Field(min_length=1)] = [Sft()]
    evaluate: Evaluate = Evaluate()


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe at a size that proves the path and not the numbers (`--tiny`)."""

    def change(part: Any, **values: Any) -> Any:
        return type(part).model_validate({**part.model_dump(by_alias=True), **values})

    nano = {"width": 64, "heads": 2, "layers": 2, "vocabulary": min(recipe.model.vocabulary, 600)}
    adapted = {"rank": min(recipe.model.rank, 4), "tiny": True}
    return change(
        recipe,
        data=change(recipe.data, max_users=min(recipe.data.max_users or 200, 200)),
        indexing=change(recipe.indexing, width=min(recipe.indexing.width, 16)),
        tasks=change(recipe.tasks, history=min(recipe.tasks.history, 10)),
        model=change(recipe.model, **(nano if recipe.model.base == "nano" else adapted)),
        train=[
            change(stage, epochs=min(stage.epochs, 1.0), batch=8, save_every=min(stage.save_every, 10))
            for stage in recipe.train
        ],
    )
