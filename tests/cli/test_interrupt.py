"""An interrupt that a finalizer swallows is raised again at the next sign of progress."""

from __future__ import annotations

import signal
import subprocess
import sys

SWALLOWED = """
import os, signal
from llmrec.cli import interrupt
from llmrec.cli.screen import stages

class Careless:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**5): pass

interrupt.watch()
with stages() as tell:
    tell("train", 0.1)
    careless = Careless()
    del careless
    print("went on")
    tell("train", 0.2)
    print("too far")
"""


def test_a_swallowed_ctrl_c_is_raised_again_at_the_next_progress() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True)
    assert "went on" in done.stdout
    assert "too far" not in done.stdout
    assert done.returncode in (-signal.SIGINT, 130)
