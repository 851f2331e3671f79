"""A child process that never outlives its parent, whatever ends the parent (also SIGKILL).

Between the two stands a small supervisor: `python -m llmrec.supervise GRACE COMMAND…`. Its standard input is a pipe
whose other end only the parent holds. When the parent ends, the pipe closes, and the supervisor ends the whole process
group of the command: SIGTERM first, SIGKILL after GRACE seconds.
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


class Child:
    """A command in a process group of its own, with everything that it starts.

    `process` is that of the supervisor, whose exit status is the command's.
    """

    def __init__(self, command: Sequence[str], grace: float, **options: Any) -> None:
        """Start a program with its arguments; `grace` is the seconds between SIGTERM and SIGKILL, `options` Popen's."""
        line = [sys.executable, "-m", "llmrec.supervise", str(grace), *command]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True, **options)

    @property
    def alive(self) -> bool:
        """Whether the command runs."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End the command and everything that it started; returns when all of it is gone."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def main(grace: float, command: Sequence[str]) -> int:
    """Run a command until it ends or standard input closes; its exit status, or 128 + the signal that ended it."""
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
    _signal(child, signal.SIGKILL)  # whatever it left behind in its group
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
