"""Handle the signals that end a command (Ctrl-C, SIGTERM, closed terminal) after a clean-up.

Python drops an exception that is raised inside a finalizer or a callback of a C library, and the run would continue.
The handler stores the signal, and the next progress update raises the exception again.
"""

from __future__ import annotations

import atexit
import os
import signal
from types import FrameType

_received = 0  # number of the signal


def watch() -> None:
    """Install the handlers; an ignored SIGTERM or SIGHUP, as under nohup, stays ignored."""
    signal.signal(signal.SIGINT, _handle)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    atexit.register(_end_by_signal)  # registered first, so it runs last


def check() -> None:
    """Raise KeyboardInterrupt or SystemExit again if a signal was received."""
    if _received:
        _handle(_received, None)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end_by_signal() -> None:
    """End by SIGTERM or SIGHUP after the clean-up, so that the exit status shows the signal."""
    if _received in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(_received, signal.SIG_DFL)
        os.kill(os.getpid(), _received)
