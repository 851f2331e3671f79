"""Signals that end a command (Ctrl-C, SIGTERM, a closed terminal): none gets lost, and all let it clean up first.

Python drops an exception that is raised inside a finalizer or a callback of a C library, and a run would then go on.
The handler remembers the signal, so that the next sign of progress raises the exception again.
"""

from __future__ import annotations

import atexit
import os
import signal
from types import FrameType

_received = 0  # number of the signal


def watch() -> None:
    """Install the handlers; SIGTERM or SIGHUP that is ignored, as under nohup, stays ignored."""
    signal.signal(signal.SIGINT, _handle)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    atexit.register(_end_by_signal)  # registered first, so it runs last


def check() -> None:
    """Raise KeyboardInterrupt or SystemExit for a signal that came and whose exception was dropped."""
    if _received:
        _handle(_received, None)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end_by_signal() -> None:
    """After a clean-up for SIGTERM or SIGHUP, end by that signal: parents look for it in the status."""
    if _received in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(_received, signal.SIG_DFL)
        os.kill(os.getpid(), _received)
