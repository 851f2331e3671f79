"""Timing that a busy machine disturbs little: contenders take turns, medians are compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def take_turns(contenders: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, each contender once in every round.

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
