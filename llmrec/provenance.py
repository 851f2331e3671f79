"""Provenance of a result: commit of the code, versions of packages, device and peak memory."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from llmrec import __version__

COMMIT = "LLMREC_COMMIT"  # environment variable: the commit of code that was copied without its history
_PACKAGES = ("torch", "transformers", "numpy", "faiss-cpu", "duckdb", "sentencepiece")
_PROCESS = Path("/proc/self")  # of Linux; on other systems memory is unknown


def commit() -> str:
    """The commit of the running code, with `-dirty` if it was changed; "unknown" without a checkout.

    Git runs once: files that a process writes into its own checkout, such as a result, do not change its code.
    """
    return os.environ[COMMIT] if COMMIT in os.environ else _described()


@functools.cache
def _described() -> str:
    package = str(Path(__file__).resolve().parent)
    if not _git("-C", package, "ls-files", "__init__.py"):
        return "unknown"  # installed, perhaps inside the checkout of another project
    return _git("-C", package, "describe", "--always", "--dirty") or "unknown"


def author() -> str:
    """The name of git's user, or the login name."""
    return _git("config", "user.name") or getpass.getuser()


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    result = {"llmrec": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            result[package] = metadata.version(package)
    return result


def device() -> str:
    """Name of the GPU, or number of CPU cores."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"


def reset_peak_memory() -> None:
    """Restart the measurement of `peak_memory`."""
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")
    if _on_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Peak MiB since the last reset: `memory`, resident; `gpu`, allocated by torch; without unknown ones."""
    peak = {}
    with contextlib.suppress(OSError):
        line = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.M)
        peak = {"memory": int(line[1]) // 1024} if line else {}
    return peak | ({"gpu": sys.modules["torch"].cuda.max_memory_allocated() >> 20} if _on_gpu() else {})


def _on_gpu() -> bool:
    """Whether torch uses a GPU, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()
