"""A child process that always ends with its parent, also if the parent is killed with SIGKILL.

The parent starts a supervisor, `python -m llmrec.child_process GRACE COMMAND…`, which starts the command. The standard
input of the supervisor is a pipe that only the parent holds open. When the parent ends, the pipe closes, and the
supervisor ends the process group of the command: SIGTERM first, SIGKILL after GRACE seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any


class ChildProcess:
    """A command in its own process group. `process` is the supervisor; its exit status is that of the command."""

    def __init__(self, command: Sequence[str], grace: float, **options: Any) -> None:
        """Start a command. `grace`: seconds between SIGTERM and SIGKILL; `options`: those of `Popen`."""
        line = [sys.executable, "-m", "llmrec.child_process", str(grace), *command]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True, **options)

    @property
    def alive(self) -> bool:
        """Whether the command is running."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End the command and all processes that it started, and wait for them."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def main(grace: float, command: Sequence[str]) -> int:
    """Run a command until it ends or standard input closes. Return its exit status, or 128 + signal number."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end(*_: object) -> None:
        _signal(child, signal.SIGTERM)
        killer = threading.Timer(grace, _signal, (child, signal.SIGKILL))
        killer.daemon = True
        killer.start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    threading.Thread(target=_wait_for_parent, args=(end,), daemon=True).start()
    status = child.wait()
    _signal(child, signal.SIGKILL)  # processes of its group that still run
    return status if status >= 0 else 128 - status


def _wait_for_parent(end: Callable[[], None]) -> None:
    """Call `end` when standard input closes."""
    while os.read(0, 1024):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    end()


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
