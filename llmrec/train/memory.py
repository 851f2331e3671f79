"""Out of memory, in the words of the recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from llmrec.errors import ModelError
from llmrec.recipe import Training

_CPU = ("can't allocate memory", "not enough memory")  # torch's allocator for CPUs raises a plain RuntimeError


@contextlib.contextmanager
def explain_memory(stage: Training, name: str, adapt: str) -> Iterator[None]:
    """Turn a failed allocation into what to change in the recipe.

    Args:
        stage: its part of the recipe.
        name: of the part, such as train.0.
        adapt: how much of the model is trained.

    Raises:
        ModelError: memory did not suffice.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_memory(error):
            raise
        first = (str(error) or "no more memory").splitlines()[0]
        raise ModelError(
            f"out of memory in {name} ({first}). {remedies(stage, name, adapt)} The last checkpoint is kept."
        ) from error


def is_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _CPU)


def remedies(stage: Training, name: str, adapt: str) -> str:
    """What to change in the recipe for less memory, cheapest first."""
    ways = []
    if stage.accumulate < stage.batch:
        ways.append(f"raise {name}.accumulate (now {stage.accumulate}; the same steps in smaller passes)")
    if not stage.gradient_checkpointing:
        ways.append(f"set {name}.gradient_checkpointing: true")
    if stage.precision == "fp32":
        ways.append(f"set {name}.precision: bf16")
    ways += [*stage.smaller(name), f"lower {name}.batch (now {stage.batch})"]
    if adapt == "full":
        ways.append("train less of the model with model.adapt: lora")
    return f"In the recipe, in this order: {'; '.join(ways)}."
