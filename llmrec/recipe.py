"""Recipes: what a run can be told, as closed names with defaults. `recipe_file` reads them from YAML."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Baseline = Literal["popularity", "item-knn", "ease", "ease-recent", "markov", "bpr", "lightgcn", "sasrec"]
Adapt = Literal["full", "lora", "qlora", "embeddings-only"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr|recall|precision|map)@[1-9]\d*$")]


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
    review: str | None = Field(None, description="text that the user wrote about the item")
    summary: str | None = Field(None, description="the headline of that text")
    split: str | None = Field(None, description="split: column — train, valid or test of each interaction")


class World(Part):
    """A generated world whose truth is known: `data.source: world`."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="draws the world; the run's own seed leaves it as it is")
    users: Positive = 500
    items: Positive = 200
    groups: Positive = Field(8, description="kinds of items, each with words of its own; a user likes one of them")
    events: Annotated[int, Field(ge=3)] = Field(12, description="of each user; half as many to half more")
    order: Annotated[float, Field(ge=0, le=0.99)] = Field(
        0.5, description="how often the planted successor of the last item comes next"
    )
    taste: Share = Field(0.3, description="how often an item of the user's group does; the rest is popularity")
    popularity: Annotated[float, Field(ge=0)] = Field(0.8, description="Zipf exponent: 0 makes all items alike")

    @model_validator(mode="after")
    def _shares(self) -> World:
        if self.order + self.taste > 1:
            raise ValueError(f"order + taste must be at most 1, not {self.order} + {self.taste}")
        if self.items < 2 * self.groups or self.items <= 2 * self.events:
            raise ValueError("items must be at least 2 x groups, and more than 2 x events: nobody meets an item twice")
        return self


Source = Literal[
    "ml-100k",
    "ml-1m",
    "ml-32m",
    "ml-latest-small",
    "amazon-beauty-2014",
    "amazon-games-2018",
    "amazon-reviews-2014",
    "amazon-reviews-2018",
    "amazon-reviews-2023",
    "files",
    "world",
]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?$")]


class Data(Part):
    """Where interactions and items come from, how they are cleaned and split."""

    source: Source = "ml-100k"
    category: str | None = Field(None, description="amazon-reviews-…: a category as its files name it, such as Beauty")
    interactions: str | None = Field(
        None, description="CSV, TSV, JSONL or Parquet, plain or .gz; * for several files of one kind"
    )
    items: str | None = Field(None, description="as `interactions`: the catalogue")
    columns: Columns = Columns()
    world: World = World()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="CSV: what stands between columns; seen in the header otherwise"
    )
    encoding: str | None = Field(None, description="of files that are not UTF-8; Windows-1252 otherwise")
    day_first: bool | None = Field(None, description="whether 3/4/2021 is in April; seen in the column otherwise")
    since: Day | None = Field(None, description="drop earlier events: a day, or a day and a time, in UTC")
    until: Day | None = Field(None, description="drop events at or after it")
    min_rating: float | None = Field(None, description="drop events rated lower")
    min_text: Annotated[int, Field(ge=0)] = Field(0, description="drop items whose title has fewer characters")
    core: Annotated[int, Field(ge=0)] = Field(0, description="drop users and items with fewer events, repeatedly")
    catalogue: Literal["all", "seen"] | None = Field(
        None, description="items to keep: all, or those with events left; seen for raw Amazon files, all otherwise"
    )
    max_users: Positive | None = Field(None, description="keep a seeded sample of the users")
    max_bad_rows: Annotated[int, Field(ge=0)] = Field(0, description="malformed rows to drop before giving up")
    split: Literal["leave-one-out", "temporal", "cold-items", "cold-users", "column"] = "leave-one-out"
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="share for validation, and as much for test; leave-one-out and column do not use it"
    )

    @model_validator(mode="after")
    def _files_are_named(self) -> Data:
        if self.source == "files" and not (self.interactions and self.items):
            raise ValueError("source: files needs both `interactions` and `items`, each the path of a file")
        if self.split == "column" and not (self.source == "files" and self.columns.split):
            raise ValueError("split: column needs source: files and `columns.split`, the name of the column")
        return self


class Items(Part):
    """What text stands for an item, and which encoder turns it into a vector."""

    text: Annotated[list[str], Field(min_length=1)] = ["title"]
    encoder: Literal["minilm-l6", "hashing"] = "minilm-l6"
    missing_text: Literal["refuse", "item-id"] = Field("refuse", description="what to do with items that have no text")


IndexMethod = Literal[
    "rq-kmeans",
    "balanced-rq-kmeans",
    "rq-vae",
    "kmeans-tree",
    "pq",
    "opq",
    "sequential",
    "collaborative",
    "title",
    "category",
    "number",
    "item",
]


class Indexing(Part):
    """How an item becomes a short code of tokens."""

    method: IndexMethod = "rq-kmeans"
    vectors: Literal["text", "teacher", "ppmi", "concat", "weighted", "aligned"] = Field(
        "text", description="what vector methods quantize: text, a teacher's item vectors, both put together"
    )
    teacher: Literal["bpr", "lightgcn", "sasrec", "ppmi"] = Field(
        "lightgcn", description="vectors: teacher, concat, weighted, aligned — whose item vectors"
    )
    weight: Share = Field(0.5, description="vectors: weighted — share of the teacher's part; the rest is the text's")
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    width: Annotated[int, Field(ge=2, le=65536)] = 256
    epochs: Positive = Field(2000, description="rq-vae: passes at most; it ends when the held-out error stays")
    category: str = Field("category", description="category: the column with the path; of agreement in health, too")
    hybrid: list[IndexMethod] = Field([], description="methods whose codes follow those of `method`, such as [item]")
    pieces: Positive | None = Field(
        None, description="SentencePiece over the log's codes: tokens in all, of which frequent codes need fewer"
    )
    separate: Literal["last-level", "sinkhorn", "nearest-free"] = Field(
        "last-level",
        description="how items of one code are told apart: by a token more, or by moving on the last level",
    )
    spares: Annotated[int, Field(ge=0)] = Field(
        8, description="unused tokens kept on the separating level for new items"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Indexing:
        moving = self.separate != "last-level"
        if moving and (self.method in _NO_QUANTIZER or self.hybrid or self.pieces):
            raise ValueError(
                f"separate: {self.separate} moves items between the codes of one quantizer, so it needs such a method, "
                "without hybrid and pieces. Use separate: last-level"
            )
        if self.pieces and (self.method in ("sequential", "number", "item", "title") or self.hybrid):
            raise ValueError("pieces: needs codes of several levels whose tokens are shared, such as rq-kmeans gives")
        numbers = [name for name in self.hybrid if name in ("sequential", "number")]
        if numbers or ("item" in (self.method, *self.hybrid[:-1]) and self.hybrid):
            raise ValueError(
                f"hybrid: {', '.join([self.method, *self.hybrid])} is in the wrong order: "
                "sequential and number come first (method), item comes last"
            )
        return self

    @property
    def behaves(self) -> bool:
        """Whether codes depend on what users did, and not on items alone."""
        of_vectors = self.method not in _NO_QUANTIZER and self.vectors != "text"
        return of_vectors or bool({"sequential", "collaborative"} & {self.method, *self.hybrid} or self.pieces)

    @model_serializer(mode="wrap")
    def _without_rare_parts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What every method reads, and what was set: a recipe stays short, and old runs stay made."""
        usual = ("method", "levels", "width", "separate", "spares")
        fields = type(self).model_fields
        return {name: value for name, value in handler(self).items() if name in usual or value != fields[name].default}


_NO_QUANTIZER = ("sequential", "collaborative", "title", "category", "number", "item")


Weight = Annotated[float, Field(ge=0)]


class Oracle(Part):
    """Who writes the words that tasks need and the data lack (intentions, preferences): `text/`."""

    by: Literal["template", "replay", "server"] = Field(
        "template", description="template: from the item's fields; replay: only the cache; server: OpenAI-compatible"
    )
    cache: str | None = Field(None, description="JSONL file of answers, by content; replay reads it, server adds to it")
    url: str | None = Field(None, description="server: such as http://localhost:8000/v1")
    model: str | None = Field(None, description="server: its name for the model")

    @model_validator(mode="after")
    def _is_reachable(self) -> Oracle:
        if self.by != "template" and not self.cache:
            raise ValueError(f"by: {self.by} needs `cache`, a JSONL file")
        if self.by == "server" and not (self.url and self.model):
            raise ValueError("by: server needs `url` and `model`")
        return self


# What a mixture gives weight 1; a task named beside it in a recipe takes the weight given there.
MIXTURES: dict[str, tuple[str, ...]] = {
    "alignment": ("next_item", "item_to_text", "text_to_item"),
    "lc-rec": ("next_item", "item_to_text", "text_to_item", "fused", "item_search", "preference"),
    "p5": (
        *("rating", "sequential", "explanation", "review_summary", "review_title", "review_rating"),
        *("direct_pick", "direct_yes_no"),
    ),
    "openp5": ("sequential", "straightforward"),
    "judge": ("rerank", "pairwise", "pointwise"),
}


class Tasks(Part):
    """Which prompts the model learns from: a mixture, and weights of tasks that differ from it."""

    mixture: Literal["alignment", "lc-rec", "p5", "openp5", "judge", "none"] = Field(
        "alignment", description="tasks that have weight 1 unless they are named here; none: only those named"
    )
    next_item: Weight = Field(0, description="history → code; weight 1: every window of every history once")
    sequential: Weight = Field(0, description="user and history → code, wordings in any order; by window")
    straightforward: Weight = Field(0, description="user → code, without a history; by window")
    fused: Weight = Field(0, description="codes → title or text, titles → code; by window")
    item_to_text: Weight = Field(0, description="code → text; weight 1: every item once")
    text_to_item: Weight = Field(0, description="text → code; by item")
    item_search: Weight = Field(0, description="intention, with or without a history → code; by window")
    preference: Weight = Field(0, description="history → preference in words; weight 1: every user once")
    rating: Weight = Field(0, description="user and item → stars; weight 1: every rated event once")
    explanation: Weight = Field(0, description="user and item → why; by explained event")
    review_summary: Weight = Field(0, description="review → one sentence; by reviewed event")
    review_title: Weight = Field(0, description="review → headline; by reviewed event")
    review_rating: Weight = Field(0, description="review → stars; by reviewed event")
    direct_pick: Weight = Field(0, description="user, `candidates` codes → one of them; by window")
    direct_yes_no: Weight = Field(0, description="user and item → would they choose it; by window")
    rerank: Weight = Field(0, description="history, `letters` candidates → letter; by window")
    pairwise: Weight = Field(0, description="history, two candidates → letter; by window")
    pointwise: Weight = Field(0, description="history and item → yes or no; by window")
    chat: Weight = Field(0, description="a talk → words with <|item|> and a code in them; by window")
    wordings: Positive | None = Field(
        None, description="how many wordings of a task are trained on, its first; all otherwise (slower from scratch)"
    )
    caps: dict[str, Positive] = Field({}, description="task → examples at most, a seeded sample of them")
    history: Positive = Field(20, description="items of a history that a prompt holds, newest kept")
    history_tokens: Positive | None = Field(
        None, description="tokens that they may take: one a code level; text counts three bytes a token"
    )
    supervise: Literal["history", "answer"] = "history"
    positions: Literal["windows", "all"] = Field(
        "windows", description="answers: the last event of every window, or every event with what came before it"
    )
    windows: Positive = Field(1, description="how often each event is seen per pass, from windows cut elsewhere")
    candidates: Annotated[int, Field(ge=2)] = Field(100, description="direct_pick: codes on offer, the right one too")
    letters: Annotated[int, Field(ge=2, le=26)] = Field(20, description="rerank: candidates behind letters")
    negatives: Literal["uniform", "popularity"] = Field("uniform", description="how wrong candidates are drawn")
    oracle: Oracle | None = Field(None, description="who writes intentions and preferences; such tasks rest without")

    @model_validator(mode="before")
    @classmethod
    def _mix(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return dict.fromkeys(MIXTURES.get(str(values.get("mixture", "alignment")), ()), 1.0) | values

    @model_validator(mode="after")
    def _caps_are_of_tasks(self) -> Tasks:
        for name in self.caps:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, 1, 0.4)
                raise ValueError(f"caps: there is no task '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        return self

    @model_serializer(mode="wrap")
    def _without_tasks_at_rest(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every task that has a weight, or that the mixture would give one; the others only make a recipe longer."""
        mixed = MIXTURES.get(self.mixture, ())
        return {name: value for name, value in handler(self).items() if name not in TASKS or value or name in mixed}

    @property
    def weights(self) -> dict[str, float]:
        """Task → weight, of the tasks that have one."""
        return {name: getattr(self, name) for name in TASKS if getattr(self, name)}


TASKS = tuple(name for name, field in Tasks.model_fields.items() if field.annotation is float)


class Model(Part):
    """The language model that is trained."""

    base: str = Field("nano", description="nano (from scratch), embedded:NAME, a folder, or a hub name")
    vocabulary: Annotated[int, Field(ge=300)] = Field(2000, description="nano: pieces of its own tokenizer")
    width: Positive = Field(128, description="nano: hidden size")
    layers: Positive = Field(4, description="nano: decoder layers")
    heads: Positive = Field(4, description="nano: attention heads; width / heads is 32 or 64")
    dropout: Share = Field(0.1, description="nano: dropout while training")
    adapt: Adapt = Field("full", description="what is trained; but for full, that and the rows of item tokens alone")
    rank: Positive = Field(16, description="lora, qlora: rank of the adapters")
    init_tokens: Literal["mean", "text", "centroids", "random"] = Field(
        "mean",
        description="where rows of item tokens start: near the mean of the base's, from the texts of their items, from "
        "the codebooks, or anywhere",
    )
    old_rows: Literal["frozen", "trained"] = Field(
        "frozen", description="adapt: full — rows of the base's own tokens; nano has none, and trains them all"
    )
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
        return self

    @model_validator(mode="after")
    def _nano_has_no_base(self) -> Model:
        if self.base == "nano" and self.adapt != "full":
            raise ValueError(f"adapt: {self.adapt} needs a pretrained base; nano is trained from scratch (adapt: full)")
        if self.base == "nano" and self.init_tokens != "mean":
            raise ValueError(f"init_tokens: {self.init_tokens} needs a pretrained base; all rows of nano are random")
        return self


class Validation(Part):
    """Early stopping: next items that no training example holds, ranked by the model as it stands."""

    every: Annotated[int, Field(ge=0)] = Field(0, description="steps between validations; 0 for none")
    metric: Metric = "ndcg@10"
    users: Positive = Field(500, description="a seeded sample of the users with a validation item")
    patience: Positive = Field(3, description="validations without a new best before training stops")


class Sft(Part):
    """Supervised fine-tuning."""

    method: Literal["sft"] = "sft"
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch: Positive = Field(32, description="packed rows per step, over all processes")
    accumulate: Positive = Field(1, description="passes that a step is cut into: less memory, the same step")
    row_tokens: Annotated[int, Field(ge=16)] | None = Field(
        None, description="tokens of a packed row; the window otherwise"
    )
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.05
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = Field(False, description="compute activations twice: less memory, slower steps")
    save_every: Positive = Field(200, description="steps between checkpoints")
    validation: Validation = Validation()
    adapt: Adapt | None = Field(None, description="what this stage trains; model.adapt otherwise")
    spare_share: Share = Field(
        0.02, description="items of an example that wear a spare token (indexing.spares), so that those are learnt too"
    )

    def pass_rows(self, processes: int) -> int:
        """Packed rows that one process takes in one pass.

        Raises:
            ValueError: a step's rows cannot be shared evenly.
        """
        parts = processes * self.accumulate
        if self.batch % parts:
            near = self.batch // parts * parts
            raise ValueError(
                f"batch: {self.batch} packed rows do not divide over {processes} processes of {self.accumulate} "
                f"pass(es) each. Set batch to {f'{near} or ' if near else ''}{near + parts}, or change launch.processes"
            )
        return self.batch // parts


class Launch(Part):
    """Where and how training is carried out; nothing of it changes what a run makes, so nothing is redone for it."""

    processes: Positive = Field(1, description="over all machines, one a GPU")
    strategy: Literal["ddp", "fsdp", "deepspeed-zero2", "deepspeed-zero3"] = "ddp"
    machines: Positive = 1
    rank: Annotated[int, Field(ge=0)] = Field(0, description="which machine this is, 0 for the one that writes")
    address: str | None = Field(None, description="of machine 0, as the others reach it")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(29500, description="on machine 0, where machines > 1")
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
    category: str | None = Field(None, description="column of items by which the variety of a list is judged")
    worth: str | None = Field(None, description="column of items, such as price, to weigh hits by")

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
    launch: Launch = Launch()

    @model_validator(mode="after")
    def _stages_can_adapt(self) -> Recipe:
        first = self.train[0].adapt or "full"
        if self.model.base == "nano" and not self.model.start and first != "full":
            raise ValueError(f"train.0.adapt: {first} would leave nano's random weights as they are; begin with full")
        for number, stage in enumerate(self.train):
            if (stage.adapt or self.model.adapt) == "qlora" and self.launch.strategy in ("fsdp", "deepspeed-zero3"):
                raise ValueError(
                    f"train.{number} adapts with qlora, whose 4-bit weights {self.launch.strategy} cannot cut up. "
                    "Use launch.strategy: ddp or deepspeed-zero2, or adapt: lora"
                )
        return self

    @model_validator(mode="after")
    def _launch_fits(self) -> Recipe:
        for number, stage in enumerate(self.train):
            try:
                stage.pass_rows(self.launch.processes)
            except ValueError as error:
                raise ValueError(f"train.{number}.{error}") from None
            if stage.validation.every and self.launch.strategy in ("fsdp", "deepspeed-zero3"):
                raise ValueError(
                    f"train.{number}.validation ranks with the whole model, which {self.launch.strategy} cuts up. "
                    "Use launch.strategy: ddp or deepspeed-zero2, or train.N.validation.every: 0"
                )
        return self


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
            change(stage, epochs=min(stage.epochs, 1.0), batch=8, accumulate=1, save_every=min(stage.save_every, 10))
            for stage in recipe.train
        ],
    )
