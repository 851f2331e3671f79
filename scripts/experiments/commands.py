"""What the scripts of this folder share: `llmrec` as its users type it, and the command that a script was called by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def call_llmrec(*arguments: object) -> None:
    """Call `llmrec` in a process of its own, quietly.

    Raises:
        CalledProcessError: it failed; why stands on standard error.
    """
    command = [sys.executable, "-m", "llmrec", *map(str, arguments), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_WAIT_POLICY": "passive"})


def typed() -> str:
    """The command line of this script, as it is typed in a checkout."""
    return " ".join(["python scripts/experiments/" + Path(sys.argv[0]).name, *sys.argv[1:]])
