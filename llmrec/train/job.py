"""A training job: the settings of one training stage, its files, and what to change when memory does not suffice."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmrec.contracts import CollaborativeModel
from llmrec.errors import ModelError
from llmrec.files import write_text
from llmrec.model.folder import ModelMeta
from llmrec.recipe import Adapt, Model, Tasks, Training

Validate = Callable[[Any, PreTrainedTokenizerBase, ModelMeta], dict[str, float]]
"""(model, tokenizer, meta) → validation metrics of the model as it is, the one that early stopping watches first."""
_NO_MEMORY = ("can't allocate memory", "not enough memory")  # torch on a CPU raises a plain RuntimeError


@dataclass(frozen=True)
class TrainJob:
    """One training stage.

    Attributes:
        number: its place among the training stages, from 1.
        exclude_seen: whether items of a history may not be recommended.
        data, items, catalogue, tasks_folder: folders of the stages that it reads.
        previous: the model folder that training starts from; None for the recipe's base.
        key: hash of all that the result depends on; a work folder of another key is thrown away.
        work: folder of tokens and checkpoints, which survives a kill.
        teacher: loads the collaborative model that the stage names; None where it needs none.
        validate: validation metrics, where the stage validates.
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
        """Where the stage stands in the recipe, for messages."""
        return f"train.{self.number - 1}"

    @property
    def adapt(self) -> Adapt:
        """How much of the model is trained."""
        return self.stage.adapt or self.model.adapt

    def reset_workdir(self) -> None:
        """Empty the work folder if it holds files of another key: their checkpoints fit nothing here."""
        key = self.work / "key"
        if not key.is_file() or key.read_text() != self.key:
            shutil.rmtree(self.work, ignore_errors=True)
            write_text(key, self.key)


def shorten(names: Iterable[Any]) -> str:
    """The first eight names, and how many more there are."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


@contextlib.contextmanager
def explain_oom(stage: Training, name: str, adapt: str) -> Iterator[None]:
    """Turn a failed allocation into what to change in the recipe, cheapest first.

    Args:
        stage: its part of the recipe.
        name: of the part, such as train.0.
        adapt: how much of the model is trained.

    Raises:
        ModelError: memory did not suffice.
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
