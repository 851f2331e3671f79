"""Recipes: what a run can be told, as closed names with defaults. `recipe_file` reads them from YAML."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from llmrec.recipe.collaborative import CollaborativeSpec
from llmrec.recipe.data import Columns, Data, Items, Source, World
from llmrec.recipe.indexing import Indexing, IndexMethod
from llmrec.recipe.judging import Evaluate
from llmrec.recipe.model_spec import ModelSpec
from llmrec.recipe.part import Adapt, Metric, Part, Positive, Seed, Share
from llmrec.recipe.stages import Aligning, Grpo, Prefer, RewardName, Sft, Stage, Training, Validation
from llmrec.recipe.talking import Chat
from llmrec.recipe.tasks import MIXTURES, TASKS, Oracle, Tasks, Weight, Wordings
from llmrec.recipe.training import Launch, Model

__all__ = [
    "MIXTURES",
    "TASKS",
    "Adapt",
    "Aligning",
    "Chat",
    "CollaborativeSpec",
    "Columns",
    "Data",
    "Evaluate",
    "Grpo",
    "IndexMethod",
    "Indexing",
    "Items",
    "Launch",
    "Metric",
    "Model",
    "ModelSpec",
    "Oracle",
    "Part",
    "Positive",
    "Prefer",
    "Recipe",
    "RewardName",
    "Sft",
    "Share",
    "Source",
    "Stage",
    "Tasks",
    "Training",
    "Validation",
    "Weight",
    "Wordings",
    "World",
    "shrink",
]


class Recipe(Part):
    """Everything a run does."""

    seed: Seed = 42
    data: Data = Data()
    items: Items = Items()
    indexing: Indexing = Indexing()
    tasks: Tasks = Tasks()
    model: Model = Model()
    train: Annotated[list[Stage], Field(min_length=1)] = Field([Sft()])
    evaluate: Evaluate = Evaluate()
    launch: Launch = Launch()
    chat: Chat = Chat()

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
    def _aligned_after_learning(self) -> Recipe:
        for number, stage in enumerate(self.train):
            if isinstance(stage, Aligning) and not number and not self.model.start:
                raise ValueError(
                    f"train.0 is {stage.method}, which aligns a model that recommends already. Put a stage "
                    "{method: sft} before it, or name a run in model.from"
                )
            if isinstance(stage, Aligning) and self.launch.strategy in ("fsdp", "deepspeed-zero3"):
                raise ValueError(
                    f"train.{number} is {stage.method}, which asks the whole model, but {self.launch.strategy} cuts it "
                    "up. Use launch.strategy: ddp or deepspeed-zero2"
                )
        return self

    @model_validator(mode="after")
    def _histories_can_be_thinned(self) -> Recipe:
        offering = sorted(
            {"direct_pick", "direct_yes_no", "rerank", "pairwise", "pointwise", "chat"} & set(self.tasks.weights)
        )
        if offering and any(isinstance(stage, Sft) and stage.drop_history for stage in self.train):
            raise ValueError(
                f"drop_history leaves items out wherever they stand, also those on offer in {', '.join(offering)}. "
                "Take these tasks out of `tasks`, or set drop_history: 0"
            )
        return self

    @model_validator(mode="after")
    def _catalogue_is_whole(self) -> Recipe:
        for number, stage in enumerate(self.train):
            adapt = stage.adapt or self.model.adapt
            if isinstance(stage, Sft) and stage.softmax == "catalogue":
                if adapt != "full":
                    raise ValueError(
                        f"train.{number}.softmax: catalogue reads rows of the output layer, which adapt: {adapt} holds "
                        "in parts. Use adapt: full, or softmax: vocabulary"
                    )
                if self.launch.strategy in ("fsdp", "deepspeed-zero3"):
                    raise ValueError(
                        f"train.{number}.softmax: catalogue reads rows of the output layer, which "
                        f"{self.launch.strategy} cuts up. Use launch.strategy: ddp or deepspeed-zero2"
                    )
        return self

    @model_validator(mode="after")
    def _launch_fits(self) -> Recipe:
        for number, stage in enumerate(self.train):
            try:
                stage.pass_rows(self.launch.processes)
            except ValueError as error:
                raise ValueError(f"train.{number}.{error}") from None
            if stage.average and self.launch.strategy in ("fsdp", "deepspeed-zero3"):
                raise ValueError(
                    f"train.{number}.average adds up whole weights, which {self.launch.strategy} cuts up. "
                    "Use launch.strategy: ddp or deepspeed-zero2, or average: 0"
                )
            if stage.validation.every and self.launch.strategy in ("fsdp", "deepspeed-zero3"):
                raise ValueError(
                    f"train.{number}.validation ranks with the whole model, which {self.launch.strategy} cuts up. "
                    "Use launch.strategy: ddp or deepspeed-zero2, or train.N.validation.every: 0"
                )
        return self

    @property
    def read_paths(self) -> dict[str, str]:
        """Key of the recipe → file or folder that it names, and that a run reads."""
        oracle = self.tasks.oracle
        named = {"data.interactions": self.data.interactions, "data.items": self.data.items}
        named |= {"model.base": self.model.base, "model.from": self.model.start}
        named |= {"tasks.oracle.cache": oracle.cache if oracle else None}
        return {key: path for key, path in named.items() if path}


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe at a size that proves the path and not the numbers (`--tiny`)."""

    def change(part: Any, **values: Any) -> Any:
        return type(part).model_validate({**part.model_dump(by_alias=True), **values})

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
            change(stage, epochs=min(stage.epochs, 1.0), batch=rows, accumulate=1, save_every=min(stage.save_every, 10))
            for stage in recipe.train
        ],
    )
