"""Recipes: what a run does, as closed names with defaults. `recipe_file` reads them from YAML."""
# ruff: noqa: F401  # parts of a recipe are imported from here

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from llmrec.recipe.collaborative import CollaborativeSpec, ModelSpec
from llmrec.recipe.data import Columns, Data, Indexing, IndexMethod, ItemText, Source, SyntheticConfig
from llmrec.recipe.model import Chat, Evaluate, Launch, Model
from llmrec.recipe.part import Adapt, Metric, Part, Positive, Seed, Share
from llmrec.recipe.stages import Alignment, Dpo, Grpo, RewardName, Sft, Stage, Training, Validation
from llmrec.recipe.tasks import CHOICES, RECOMMENDING, TASKS, Oracle, Tasks, TemplateChoice, Weight

_OFFERING = {"direct_pick", "direct_yes_no", "rerank", "pairwise", "pointwise", "chat"}


class Recipe(Part):
    """Everything a run does."""

    seed: Seed = 42
    data: Data = Data()
    items: ItemText = ItemText()
    indexing: Indexing = Indexing()
    tasks: Tasks = Tasks()
    model: Model = Model()
    train: Annotated[list[Stage], Field(min_length=1)] = Field([Sft()])
    evaluate: Evaluate = Evaluate()
    launch: Launch = Launch()
    chat: Chat = Chat()

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        first = self.train[0].adapt or "full"
        if self.model.base == "nano" and not self.model.init_from and first != "full":
            raise ValueError(f"train.0.adapt: {first} would leave nano's random weights as they are; begin with full")
        if isinstance(self.train[0], Alignment) and not self.model.init_from:
            raise ValueError(
                f"train.0 is {self.train[0].method}, which aligns a model that recommends already. Put a stage "
                "{method: sft} before it, or name a run in model.init_from"
            )
        for number, stage in enumerate(self.train):
            try:
                self._stage_fits(stage)
            except ValueError as error:
                raise ValueError(f"train.{number}{error}") from None
        return self

    def _stage_fits(self, stage: Training) -> None:
        """Raise ValueError where a stage contradicts another part; its words follow `train.N`."""
        adapt, strategy = stage.adapt or self.model.adapt, self.launch.strategy
        by_trie = isinstance(stage, Sft) and stage.loss == "trie"
        if by_trie and adapt != "full":
            raise ValueError(
                f".loss: trie reads rows of the output layer, which adapt: {adapt} holds in parts. "
                "Use adapt: full, or loss: full"
            )
        offering = sorted(_OFFERING & set(self.tasks.weights))
        if offering and isinstance(stage, Sft) and stage.item_dropout:
            raise ValueError(
                f".item_dropout leaves items out wherever they stand, also those on offer in {', '.join(offering)}. "
                "Take these tasks out of `tasks`, or set item_dropout: 0"
            )
        cuts = f"which {strategy} cuts up"
        needs_whole = (
            (adapt == "qlora", f" adapts with qlora, whose 4-bit weights {strategy} cannot cut up", ", or adapt: lora"),
            (
                isinstance(stage, Alignment),
                f" is {stage.method}, which asks the whole model, but {strategy} cuts it up",
                "",
            ),
            (by_trie, f".loss: trie reads rows of the output layer, {cuts}", ", or loss: full"),
            (stage.weight_average, f".weight_average adds up whole weights, {cuts}", ", or weight_average: 0"),
            (stage.validation.every, f".validation ranks with the whole model, {cuts}", ", or validation.every: 0"),
        )
        for needed, what, instead in needs_whole if strategy in ("fsdp", "deepspeed-zero3") else ():
            if needed:
                raise ValueError(f"{what}. Use launch.strategy: ddp or deepspeed-zero2{instead}")
        try:
            stage.pass_rows(self.launch.processes)
        except ValueError as error:
            raise ValueError(f".{error}") from None

    @property
    def read_paths(self) -> dict[str, str]:
        """Key of the recipe → file or folder that it names, and that a run reads."""
        oracle = self.tasks.oracle
        named = {"data.interactions": self.data.interactions, "data.items": self.data.items}
        named |= {"model.base": self.model.base, "model.init_from": self.model.init_from}
        named |= {"tasks.oracle.cache": oracle.cache if oracle else None}
        return {key: path for key, path in named.items() if path}


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe at a size that proves the path and not the numbers (`--tiny`)."""

    def change(part: Any, **values: Any) -> Any:
        return type(part).model_validate({**part.model_dump(), **values})

    nano = {"width": 64, "heads": 2, "layers": 2, "vocabulary": min(recipe.model.vocabulary, 600)}
    adapted = {"rank": min(recipe.model.rank, 4), "tiny": True}
    rows = -(-8 // recipe.launch.processes) * recipe.launch.processes
    return change(
        recipe,
        data=change(recipe.data, max_users=min(recipe.data.max_users or 200, 200)),
        indexing=change(recipe.indexing, width=min(recipe.indexing.width, 16)),
        tasks=change(recipe.tasks, history=min(recipe.tasks.history, 10)),
        model=change(recipe.model, **(nano if recipe.model.base == "nano" else adapted)),
        train=[
            change(
                stage,
                epochs=min(stage.epochs, 1.0),
                batch=rows,
                gradient_accumulation=1,
                save_every=min(stage.save_every, 10),
            )
            for stage in recipe.train
        ],
    )
