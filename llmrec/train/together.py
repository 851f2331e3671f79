"""Several processes as one: which this is, who goes first, who waits.

`accelerate launch` and `torchrun` tell a process its place by RANK and WORLD_SIZE. Without them there is one process,
and nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

Value = TypeVar("Value")
PATIENCE = timedelta(hours=6)  # the others wait while the first makes data, vectors and codes


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the one that writes; alone, it is."""
    return world() == 1 or os.environ["RANK"] == "0"


def begin() -> None:
    """Meet the other processes: NCCL where there are GPUs, gloo otherwise."""
    if world() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def wait() -> None:
    """Go on when all processes have come this far."""
    if world() > 1:
        from torch import distributed

        distributed.barrier()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """The first process runs the block alone, then all others do: it leaves files that they find."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def same(value: Value) -> Value:
    """What the first process holds."""
    if world() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]
