"""What made a result: the commit of the code, versions of packages, the machine, and the most memory held."""

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

COMMIT = "LLMREC_COMMIT"  # environment variable: the commit of code that travelled without its history
_PACKAGES = ("torch", "transformers", "numpy", "faiss-cpu", "duckdb", "sentencepiece")
_PROCESS = Path("/proc/self")  # of Linux; elsewhere memory is not known


def commit() -> str:
    """The commit of the code that runs, `-dirty` where it was changed since; "unknown" without a checkout.

    Git is asked once: what a process writes into its own checkout, such as a result, does not change its code.
    """
    return os.environ[COMMIT] if COMMIT in os.environ else _described()


@functools.cache
def _described() -> str:
    package = str(Path(__file__).resolve().parent)
    if not _git("-C", package, "ls-files", "__init__.py"):
        return "unknown"  # installed, perhaps inside the checkout of another project
    return _git("-C", package, "describe", "--always", "--dirty") or "unknown"


def author() -> str:
    """The name that commits carry here, or the login name."""
    return _git("config", "user.name") or getpass.getuser()


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {"llmrec": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def device() -> str:
    """The accelerator's name, or the number of cores."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"


def reset_peak_memory() -> None:
    """Start measuring `peak_memory` anew."""
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")
    if _on_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """The most MiB held since the last reset: `memory`, resident; `gpu`, allocated by torch; unknown ones left out."""
    found = {}
    with contextlib.suppress(OSError):
        line = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.M)
        found = {"memory": int(line[1]) // 1024} if line else {}
    return found | ({"gpu": sys.modules["torch"].cuda.max_memory_allocated() >> 20} if _on_gpu() else {})


def _on_gpu() -> bool:
    """Whether torch uses a GPU already; asking must not import it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()
