"""The memory that a call takes at its peak: of numpy by what Python allocates, of torch by what the process holds."""

from __future__ import annotations

import ctypes
import gc
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from llmrec import peak

T = TypeVar("T")
STATUS = Path("/proc/self/status")


def traced(call: Callable[[], T]) -> tuple[T, int]:
    """What a call returns, and the bytes that numpy took for it."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident(call: Callable[[], T]) -> tuple[T, int]:
    """What a call returns, and the bytes by which the process grew."""
    if not STATUS.is_file():
        pytest.skip("this system does not say what a process holds")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    held = re.search(r"^VmRSS:\s+(\d+) kB", STATUS.read_text(), re.M)
    assert held
    peak.reset()
    result = call()
    return result, (peak.peaks()["memory"] << 20) - 1024 * int(held[1])
