"""What git tells of the code that runs and of who runs it; little where there is no git, or no checkout."""

from __future__ import annotations

import functools
import getpass
import os
import subprocess
from pathlib import Path

COMMIT = "LLMREC_COMMIT"  # of code that travelled without its history


def commit() -> str:
    """The commit of the code that runs, `-dirty` where it was changed since; "unknown" where nothing tells it.

    Asked of git once: what a process writes into its own checkout, such as a result, does not change its code.
    """
    return os.environ[COMMIT] if COMMIT in os.environ else _described()


@functools.cache
def _described() -> str:
    package = str(Path(__file__).resolve().parent)
    if not _said("-C", package, "ls-files", "__init__.py"):
        return "unknown"  # installed, perhaps inside somebody's own checkout
    return _said("-C", package, "describe", "--always", "--dirty") or "unknown"


def who() -> str:
    """The name that commits carry here, or the login name."""
    return _said("config", "user.name") or getpass.getuser()


def _said(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
