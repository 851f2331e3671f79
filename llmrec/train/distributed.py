"""Training in several processes: rank, barriers and broadcast.

`accelerate launch` and `torchrun` set RANK and WORLD_SIZE. Without them there is one process and these functions do
nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

Value = TypeVar("Value")
TIMEOUT = timedelta(hours=6)  # the other processes wait while the main one makes data, vectors and codes


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_main_process() -> bool:
    """Whether this process writes files: rank 0, or the only one."""
    return world_size() == 1 or os.environ["RANK"] == "0"


def init() -> None:
    """Connect to the other processes: by NCCL where there are GPUs, by gloo otherwise."""
    if world_size() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def barrier() -> None:
    """Wait until all processes have called this."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process, then in all others, which find the files that it wrote."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def broadcast(value: Value) -> Value:
    """Return the main process's value in every process."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]
