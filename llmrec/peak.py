"""The most memory that this process held since it was last asked to forget."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

_OWN = Path("/proc/self")  # of Linux; elsewhere nothing is known


def reset() -> None:
    """Forget what was held before."""
    with contextlib.suppress(OSError):
        (_OWN / "clear_refs").write_text("5")
    if _on_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def peaks() -> dict[str, int]:
    """MiB: `memory`, resident; `gpu`, allocated by torch. What is not known is left out."""
    found = {}
    with contextlib.suppress(OSError):
        told = re.search(r"^VmHWM:\s+(\d+) kB", (_OWN / "status").read_text(), re.M)
        found = {"memory": int(told[1]) // 1024} if told else {}
    return found | ({"gpu": sys.modules["torch"].cuda.max_memory_allocated() >> 20} if _on_gpu() else {})


def _on_gpu() -> bool:
    """Whether torch is at work on a GPU; asking must not import it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()
