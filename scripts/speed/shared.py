"""What the scripts of this folder share: contenders that take turns, a process of its own, a command line."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import typer

from llmrec import provenance
from llmrec.errors import LlmrecError

RESULTS = Path("results")
_T = TypeVar("_T")


def take_turns(contenders: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, each contender once in every round, so that a busy machine slows all alike.

    Args:
        contenders: name → what to time.
        rounds: timed calls of each.
        warm_up: calls of each that are not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warm_up, rounds):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times longer the first took, round by round: median, and the range over rounds."""
    each = np.asarray(slow) / np.asarray(fast)
    return {
        name: round(float(of(each)), 3) for name, of in (("median", np.median), ("least", np.min), ("most", np.max))
    }


def alone(work: Callable[..., _T], *arguments: Any) -> _T:
    """The result of a call in a fresh process, whose memory is that of the call alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_gib() -> float:
    """GiB that this process held at most since it began, or since `provenance.reset_peak_memory`."""
    return provenance.peak_memory()["memory"] / 1024


def tell(line: str) -> None:
    """Print a line about what is at work."""
    print(line, file=sys.stderr, flush=True)


def command_line(main: Callable[..., None]) -> None:
    """Run a function as a command line; a known error ends in its message and exit code 2.

    Idle threads of OpenMP that spin slow small models down. torch reads the setting when it is loaded, so the script
    starts again with it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.execv(sys.executable, sys.orig_argv)
    try:
        typer.run(main)
    except LlmrecError as error:
        tell(f"{type(error).__name__}: {error}")
        sys.exit(2)
