"""The memory that a call takes at its peak: of numpy by what Python allocates, of torch by what the process holds."""

from __future__ import annotations

import ctypes
import gc
import re
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import pytest

from llmrec import provenance

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
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    held = re.search(r"^VmRSS:\s+(\d+) kB", STATUS.read_text(), re.M)
    assert held
    provenance.reset_peak_memory()
    result = call()
    return result, (provenance.peak_memory()["memory"] << 20) - 1024 * int(held[1])


def in_new_process(call: Callable[[], T]) -> T:
    """What a call returns in a new process that gives every freed block back to the system at once.

    By default the C library keeps freed blocks and reuses them as they fit, so that the same call takes 0.27 to 0.37 GB
    depending on what ran before it; this way it takes the same to a hundredth.
    """
    if not STATUS.is_file():
        pytest.skip("this system does not say what a process holds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(call).result()
