"""Children end with their parent, and everything that they started ends with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrec.child_process import ChildProcess

# Starts a child that starts another; both write their numbers and then wait.
PARENT = """
import sys, time
from llmrec.child_process import ChildProcess
child = ChildProcess(["sh", "-c", "echo $$ >> {file}; sh -c 'echo $$ >> {file}; sleep 60' & wait"], 5.0)
print("ready", flush=True)
time.sleep(60)
"""


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is read
        return False
    return state != "Z"


def until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_parent_whatever_ends_it(number: int, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(file=file)], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    assert until(lambda: file.is_file() and len(file.read_text().split()) == 2)
    pids = [int(one) for one in file.read_text().split()]
    assert all(map(lives, pids))
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not any(map(lives, pids)))


def test_stop_returns_when_everything_is_gone_also_what_ignores_sigterm(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    child = ChildProcess(["sh", "-c", f"trap '' TERM; sleep 60 & echo $! > {file}; while true; do sleep 60; done"], 0.2)
    assert child.alive and until(lambda: file.is_file() and file.read_text().strip() != "")
    child.stop()
    assert not child.alive and child.process.returncode == 128 + signal.SIGKILL
    assert until(lambda: not lives(int(file.read_text())))


def test_the_exit_status_is_that_of_the_command() -> None:
    commands = [[sys.executable, "-c", f"raise SystemExit({code})"] for code in (0, 3)]
    assert [ChildProcess(command, 1.0).process.wait() for command in commands] == [0, 3]
