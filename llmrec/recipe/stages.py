"""`train`: the stages that train the model one after another, each from the model of the stage before it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from llmrec.recipe.collaborative import CollaborativeSpec, EaseRecentSpec, MarkovEaseSpec, ModelSpec
from llmrec.recipe.part import Adapt, Float, Int, Metric, Part, Positive, Share

NegativeKind = Literal["random", "popular", "teacher", "beams"]
RewardName = Literal["hit", "rank", "prefix", "teacher", "diversity", "novelty", "popularity"]


class Validation(Part):
    """Early stopping on next items that no training example holds."""

    every: Annotated[Int, Field(ge=0)] = Field(0, description="steps between validations; 0 for none")
    metric: Metric = "ndcg@10"
    users: Positive = Field(500, description="a seeded sample of the users with a validation item")
    patience: Positive = Field(3, description="validations without a new best before training stops")


class Training(Part):
    """Settings of all training stages."""

    NOT_HASHED: ClassVar[frozenset[str]] = frozenset({"gradient_accumulation", "gradient_checkpointing", "save_every"})
    method: str
    epochs: Annotated[Float, Field(gt=0)] = 1.0
    batch: Positive = Field(32, description="rows per step, over all processes")
    gradient_accumulation: Positive = Field(1, description="passes per step: less memory, the same step")
    learning_rate: Annotated[Float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[Float, Field(ge=0)] = 0.1
    warmup: Share = 0.05
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = Field(False, description="compute activations twice: less memory, slower steps")
    save_every: Positive = Field(200, description="steps between checkpoints")
    validation: Validation = Validation()
    adapt: Adapt | None = Field(None, description="what this stage trains; model.adapt otherwise")
    weight_average: Share = Field(
        0.0, description="end with the mean weights of this last share of the steps; 0 for those of the last step"
    )

    @model_validator(mode="after")
    def _one_end(self) -> Training:
        if self.weight_average and self.validation.every:
            raise ValueError(
                "weight_average ends with the mean of the last weights, validation.every with those of the best step. "
                "Set one to 0"
            )
        return self

    def pass_rows(self, processes: int) -> int:
        """Rows that one process takes in one pass.

        Raises:
            ValueError: the rows of a step cannot be shared evenly.
        """
        parts = processes * self.gradient_accumulation
        if self.batch % parts:
            near = self.batch // parts * parts
            raise ValueError(
                f"batch: {self.batch} packed rows do not divide over {processes} processes of "
                f"{self.gradient_accumulation} pass(es) each. Set batch to "
                f"{f'{near} or ' if near else ''}{near + parts}, or change launch.processes"
            )
        return self.batch // parts

    @property
    @abstractmethod
    def needed_teacher(self) -> ModelSpec | None:
        """The collaborative model that the stage reads, if any."""

    @abstractmethod
    def smaller(self, name: str) -> list[str]:
        """Settings of the method to change for less memory, in words; `name` is the stage's in the recipe."""


class Sft(Training):
    """Supervised fine-tuning; a row of `batch` holds packed examples."""

    method: Literal["sft"] = "sft"
    pack_length: Annotated[Int, Field(ge=16)] | None = Field(
        None, description="tokens of a packed row; null for those of the longest example"
    )
    reserved_token_prob: Share = Field(
        0.005,
        description="probability that an item's last token is replaced by a reserved one (indexing.reserved_tokens)",
    )
    label_smoothing: Share = Field(
        0.0, description="share of a code token's probability that is spread over all tokens of its level"
    )
    item_dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.0, description="probability to leave an item out of a history, drawn anew in each epoch"
    )
    loss: Literal["full", "trie"] = Field(
        "full", description="softmax of code tokens: over the vocabulary, or over the children in the catalogue's trie"
    )
    teacher_replace_prob: Share = Field(
        0.0,
        description="probability to replace an item of a history by one that `teacher` predicts, drawn in each epoch",
    )
    teacher: CollaborativeSpec = Field(MarkovEaseSpec(), description="collaborative model for teacher_replace_prob")

    @property
    def needed_teacher(self) -> ModelSpec | None:
        return self.teacher if self.teacher_replace_prob else None

    def smaller(self, name: str) -> list[str]:
        return [f"lower {name}.pack_length (now {self.pack_length or 'the longest example'}) or tasks.history"]


class Alignment(Training):
    """Settings of all alignment methods; a row of `batch` is a position in a training history and its next item."""

    batch: Positive = Field(32, description="positions of training histories per step, over all processes")
    learning_rate: Annotated[Float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    max_positions: Positive = Field(10, description="positions of each training history to learn from, the newest")
    sft: Annotated[Float, Field(ge=0)] = Field(0.0, description="weight of the SFT loss of the target item")
    teacher: CollaborativeSpec = Field(
        EaseRecentSpec(), description="model for the negatives of kind `teacher`, or for the reward `teacher`"
    )


class Dpo(Alignment):
    """Preference pairs: the target item is preferred to sampled negative items."""

    method: Literal["dpo", "s-dpo", "ipo"]
    beta: Annotated[Float, Field(gt=0)] = Field(0.1, description="how closely to stay to the model before the stage")
    negatives: Annotated[dict[NegativeKind, Positive], Field(min_length=1)] = Field(
        {"random": 4, "beams": 4},
        description="how many of each kind: random, popular (by frequency), the teacher's top items, the model's beams",
    )

    @property
    def needed_teacher(self) -> ModelSpec | None:
        return self.teacher if "teacher" in self.negatives else None

    def smaller(self, name: str) -> list[str]:
        return [f"lower {name}.negatives (now {sum(self.negatives.values())} in all) or tasks.history"]


class Grpo(Alignment):
    """Reinforcement learning: sample a group of items from the model at each position, and compare their rewards."""

    method: Literal["grpo"]
    group_size: Annotated[Int, Field(ge=2)] = Field(16, description="items sampled at each position")
    sampling: Literal["with-replacement", "without-replacement", "beams"] = Field(
        "without-replacement", description="beams: the most likely items used as samples (biased, as in other projects)"
    )
    temperature: Annotated[Float, Field(gt=0)] = 1.0
    rewards: Annotated[dict[RewardName, Float], Field(min_length=1)] = Field(
        {"hit": 1.0}, description="weight of each reward"
    )
    advantage: Literal["grpo", "dr-grpo", "pass"] = Field(
        "grpo", description="dr-grpo: not divided by the standard deviation of the group; pass: the pass@k bonus alone"
    )
    skip_constant_groups: bool = Field(
        True, description="leave groups whose rewards are all equal out of the mean loss (DAPO)"
    )
    pass_at_k: Annotated[Int, Field(ge=0)] = Field(0, description="k of the pass@k bonus (GREAM); 0 for none")
    kl: Annotated[Float, Field(ge=0)] = Field(0.01, description="weight of the KL term to the model before the stage")

    @model_validator(mode="after")
    def _pass_fits(self) -> Grpo:
        if self.advantage == "pass" and not self.pass_at_k:
            raise ValueError("advantage: pass is the pass@k bonus alone, so it needs its k: set pass_at_k, such as 8")
        if self.advantage == "pass" and self.rewards != {"hit": 1.0}:
            raise ValueError("advantage: pass uses hits alone and no rewards: leave rewards out")
        if self.pass_at_k > self.group_size:
            raise ValueError(f"pass_at_k: {self.pass_at_k} is more than the {self.group_size} items of a group")
        return self

    @property
    def needed_teacher(self) -> ModelSpec | None:
        return self.teacher if "teacher" in self.rewards else None

    def smaller(self, name: str) -> list[str]:
        return [f"lower {name}.group_size (now {self.group_size}) or tasks.history"]


def _method(stage: Any) -> str:
    """Return the tag of a stage's kind; a stage without a method is supervised."""
    method = stage.get("method", "sft") if isinstance(stage, dict) else getattr(stage, "method", "sft")
    return "prefer" if method in ("dpo", "s-dpo", "ipo") else str(method)


METHODS = ("sft", "dpo", "s-dpo", "ipo", "grpo")
STAGES = {"sft": Sft, "prefer": Dpo, "grpo": Grpo}
Stage = Annotated[
    Annotated[Sft, Tag("sft")] | Annotated[Dpo, Tag("prefer")] | Annotated[Grpo, Tag("grpo")],
    Discriminator(_method),
]
