"""A training job: settings and files of one training stage, and advice if memory does not suffice."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmrec.contracts import CollaborativeModel
from llmrec.errors import ModelError
from llmrec.files import write_text
from llmrec.model.folder import ModelMeta
from llmrec.recipe import Adapt, Model, Tasks, Training
from llmrec.train.callbacks import Describe, Measure

Validate = Callable[[Any, PreTrainedTokenizerBase, ModelMeta], dict[str, float]]
"""(model, tokenizer, meta) → validation metrics of the model as it is, the one that early stopping watches first."""
_NO_MEMORY = ("can't allocate memory", "not enough memory")  # torch on a CPU raises a plain RuntimeError


@dataclass(frozen=True)
class TrainJob:
    """Settings and files of one training stage.

    Attributes:
        number: of the stage in the recipe, from 1.
        exclude_seen: whether items of the history are not recommended.
        data, items, catalogue, tasks_folder: folders of the stages that it reads.
        previous: model folder to start from; None for the recipe's base.
        key: hash of all that the result depends on.
        work: folder of tokens and checkpoints, kept when the process is killed.
        teacher: loads the collaborative model that the stage names; None without one.
        validate: validation metrics; None without validation.
        logs: folder for trackers; None for no trackers.
        report_to: names of trackers; None for TensorBoard where it is installed.
    """

    stage: Training
    number: int
    model: Model
    tasks: Tasks
    seed: int
    exclude_seen: bool
    data: Path
    items: Path
    catalogue: Path
    tasks_folder: Path
    previous: Path | None
    key: str
    work: Path
    teacher: Callable[[], CollaborativeModel] | None = None
    validate: Validate | None = None
    logs: Path | None = None
    report_to: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """Key of the stage in the recipe, for messages."""
        return f"train.{self.number - 1}"

    @property
    def adapt(self) -> Adapt:
        """The parameters that are trained."""
        return self.stage.adapt or self.model.adapt

    def reset_workdir(self) -> None:
        """Empty the work folder if its files are of another key."""
        key = self.work / "key"
        if not key.is_file() or key.read_text() != self.key:
            shutil.rmtree(self.work, ignore_errors=True)
            write_text(key, self.key)


@dataclass(frozen=True)
class TrainContext:
    """Validation, trackers and texts for messages of one training.

    Attributes:
        name: of the stage in the recipe.
        adapt: how much of the model is trained.
        measure: metrics of validation; None for none.
        describe: numbers of packed rows → what they hold, in words.
        logs: folder for trackers; None for no trackers.
        report_to: names of trackers; None for TensorBoard where it is installed.
        advice: what to change if the loss diverges; None for learning rate and warmup in the recipe.
    """

    name: str = "train.N"
    adapt: str = "full"
    measure: Measure | None = None
    describe: Describe = field(default=lambda rows: f"rows {', '.join(map(str, rows[:8]))}")
    logs: Path | None = None
    report_to: Sequence[str] | None = None
    advice: str | None = None

    @classmethod
    def of(cls, job: TrainJob, tokenizer: Any, meta: ModelMeta, describe: Describe) -> TrainContext:
        """For a job; tokenizer and meta are those of the model that is validated."""
        validate = job.validate
        measure = (lambda model: validate(model, tokenizer, meta)) if validate else None
        return cls(job.name, job.adapt, measure, describe, job.logs, job.report_to)


def shorten(names: Iterable[Any]) -> str:
    """The first eight names, and the number of the others."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


@contextlib.contextmanager
def explain_oom(stage: Training, name: str, adapt: str) -> Iterator[None]:
    """Turn a failed allocation into a `ModelError` that says what to change in the recipe, cheapest first.

    Args:
        name: of the stage in the recipe, such as train.0.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in _NO_MEMORY):
            raise
        ways = []
        if stage.gradient_accumulation < stage.batch:
            ways.append(
                f"raise {name}.gradient_accumulation (now {stage.gradient_accumulation}; same steps, smaller passes)"
            )
        if not stage.gradient_checkpointing:
            ways.append(f"set {name}.gradient_checkpointing: true")
        if stage.precision == "fp32":
            ways.append(f"set {name}.precision: bf16")
        ways += [*stage.smaller(name), f"lower {name}.batch (now {stage.batch})"]
        if adapt == "full":
            ways.append("train less of the model with model.adapt: lora")
        first = (str(error) or "no more memory").splitlines()[0]
        raise ModelError(
            f"out of memory in {name} ({first}). In the recipe, in this order: {'; '.join(ways)}. "
            "The last checkpoint is kept."
        ) from error
